#include "eval/policy_evaluator.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/check.h"
#include "distributed/together.h"
#include "eval/scores.h"

namespace perceiver {
namespace {

/// A document being scored in a slot.
struct Reading {
  int64_t document = -1;  ///< -1: none
  std::vector<int32_t> tokens;
  int64_t next = 0;  ///< the target to score next
};

/// Nats of `target`, and whether it is the likeliest.
std::pair<double, bool> score(const std::vector<double>& logits, int32_t target) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - largest);
  const double own = logits[static_cast<size_t>(target)];
  return {std::log(sum) + largest - own, own == largest};
}

/// Whether positions are the engine's default and need not be given.
bool count_from_one(const std::vector<int32_t>& positions) {
  for (size_t i = 0; i < positions.size(); ++i)
    if (positions[i] != static_cast<int32_t>(i + 1)) return false;
  return true;
}

class PolicyEvaluator {
 public:
  PolicyEvaluator(Engine& engine, const Dataset& data, Split split, const PolicyEvaluationOptions& options)
      : engine_(engine), data_(data), split_(split), options_(options) {
    result_.documents = data.documents(split);
    if (result_.documents == 0)
      throw_user("the data has no {} documents; name some in data.{} or set its fraction", split_name(split),
                 split_name(split));
    if (options.max_documents < 0 || options.max_tokens < 0)
      throw_user("the limits on documents and tokens must not be negative");
    if (data.unbounded()) result_.documents = Windows::unbounded_documents;
    if (options.max_documents > 0) result_.documents = std::min(result_.documents, options.max_documents);
    result_.unit = data.unit();
    result_.latents = engine.options().latents;
    result_.stride = 1;
    readings_.resize(static_cast<size_t>(engine.slots()));
    deal();
  }

  EvaluationResult run(const std::function<void(int64_t, int64_t)>& progress) {
    const auto start = std::chrono::steady_clock::now();
    together(options_.world, "an evaluation", [&] { score_all(progress); });
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    add_up(options_.world, scores_, result_.seconds);
    scores_.write(result_);
    result_.units = std::llround(units_);
    PERCEIVER_ASSERT(result_.tokens == total_ && total_ > 0);
    return result_;
  }

 private:
  /// Chooses this rank's documents: the longest first, each to the rank that has the least to do.
  void deal() {
    std::vector<std::pair<int64_t, int64_t>> by_length;  // longest first, then by number
    for (int64_t d = 0; d < result_.documents; ++d) {
      const int64_t targets = targets_of(d);
      by_length.emplace_back(-targets, d);
      total_ += targets;
      const auto all = static_cast<double>(data_.document_length(split_, d) - data_.first_target(split_, d));
      units_ += static_cast<double>(data_.scored_units(split_, d)) * static_cast<double>(targets) / all;
    }
    const int rank = options_.world != nullptr ? options_.world->rank() : 0;
    const int ranks = options_.world != nullptr ? options_.world->size() : 1;
    if (ranks > 1) std::sort(by_length.begin(), by_length.end());
    std::vector<int64_t> load(static_cast<size_t>(ranks), 0);
    for (const auto& [length, document] : by_length) {
      const auto least = std::min_element(load.begin(), load.end());
      *least -= length;
      if (least - load.begin() == rank) mine_.push_back(document);
    }
    mine_total_ = load[static_cast<size_t>(rank)];
  }

  void score_all(const std::function<void(int64_t, int64_t)>& progress) {
    while (fill()) {
      engine_.compute();
      if (options_.world != nullptr) options_.world->still_working();
      for (size_t s = 0; s < readings_.size(); ++s)
        if (readings_[s].document >= 0) advance(static_cast<int64_t>(s));
      if (progress && (scores_.tokens() % 64 == 0 || scores_.tokens() == mine_total_))
        progress(scores_.tokens(), mine_total_);
    }
  }

  int64_t targets_of(int64_t document) const {
    const int64_t all = data_.document_length(split_, document) - data_.first_target(split_, document);
    return options_.max_tokens > 0 ? std::min(all, options_.max_tokens) : all;
  }

  /// Puts documents into free slots; whether any slot is busy.
  bool fill() {
    bool busy = false;
    for (size_t s = 0; s < readings_.size(); ++s) {
      if (readings_[s].document < 0 && next_ < mine_.size()) open(static_cast<int64_t>(s), mine_[next_++]);
      busy = busy || readings_[s].document >= 0;
    }
    return busy;
  }

  void open(int64_t slot, int64_t document) {
    Reading& reading = readings_[static_cast<size_t>(slot)];
    const int64_t first = data_.first_target(split_, document), targets = targets_of(document);
    reading.document = document;
    reading.next = first;
    reading.tokens.resize(static_cast<size_t>(first + targets));
    data_.read(split_, document, 0, first + targets, reading.tokens.data());
    Sequence sequence;
    sequence.tokens.assign(reading.tokens.begin(), reading.tokens.begin() + first);
    sequence.positions.resize(static_cast<size_t>((first + targets) * data_.axes()));
    data_.positions(split_, document, 0, first + targets, sequence.positions.data());
    if (data_.axes() == 1 && count_from_one(sequence.positions)) sequence.positions.clear();
    engine_.admit(slot, std::move(sequence));
  }

  void advance(int64_t slot) {
    Reading& reading = readings_[static_cast<size_t>(slot)];
    const int32_t target = reading.tokens[static_cast<size_t>(reading.next)];
    const auto [nats, correct] = score(engine_.logits(slot), target);
    scores_.add(reading.next, nats, correct);
    if (++reading.next < static_cast<int64_t>(reading.tokens.size())) {
      engine_.push(slot, target);
      return;
    }
    engine_.release(slot);
    reading.document = -1;
  }

  Engine& engine_;
  const Dataset& data_;
  Split split_;
  PolicyEvaluationOptions options_;
  EvaluationResult result_;
  std::vector<Reading> readings_;
  std::vector<int64_t> mine_;  ///< this rank's documents
  size_t next_ = 0;            ///< of them
  int64_t mine_total_ = 0, total_ = 0;
  double units_ = 0;
  Scores scores_;
};

}  // namespace

EvaluationResult evaluate_policy(Engine& engine, const Dataset& data, Split split,
                                 const PolicyEvaluationOptions& options,
                                 const std::function<void(int64_t, int64_t)>& progress) {
  check_fits(data, engine.model().config());
  return PolicyEvaluator(engine, data, split, options).run(progress);
}

}  // namespace perceiver
