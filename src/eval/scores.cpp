#include "eval/scores.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "base/check.h"
#include "eval/evaluator.h"

namespace perceiver {
namespace {

/// What a rank tells the others; all run the same build.
struct RankScores {
  Scores scores;
  double seconds = 0;
};
static_assert(std::is_trivially_copyable_v<RankScores>);

}  // namespace

void Scores::add(int64_t place, double nats, bool correct) {
  Bucket& bucket = buckets_[static_cast<size_t>(position_bucket(place))];
  bucket.nats.add(nats);
  ++bucket.tokens;
  nats_.add(nats);
  correct_ += correct ? 1 : 0;
  ++tokens_;
}

void Scores::add(const Scores& other) {
  for (size_t i = 0; i < buckets_.size(); ++i) {
    buckets_[i].nats.add(other.buckets_[i].nats);
    buckets_[i].tokens += other.buckets_[i].tokens;
  }
  nats_.add(other.nats_);
  correct_ += other.correct_;
  tokens_ += other.tokens_;
}

void Scores::write(EvaluationResult& result) const {
  result.tokens = tokens_;
  result.nats = nats_.value();
  result.correct = correct_;
  for (size_t i = 0; i < buckets_.size(); ++i)
    result.buckets[i] = {buckets_[i].nats.value(), buckets_[i].tokens};
}

void add_up(World* world, Scores& scores, double& seconds) {
  if (world == nullptr) return;
  const RankScores mine{scores, seconds};
  const std::string text(reinterpret_cast<const char*>(&mine), sizeof mine);
  scores = {};
  for (const std::string& each : world->gather(text, "the results of an evaluation")) {
    PERCEIVER_ASSERT(each.size() == sizeof(RankScores));
    RankScores theirs;
    std::memcpy(&theirs, each.data(), sizeof theirs);
    scores.add(theirs.scores);
    seconds = std::max(seconds, theirs.seconds);
  }
}

}  // namespace perceiver
