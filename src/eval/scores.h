// What scoring adds up, on one rank or on many.
#pragma once

#include <array>
#include <cstdint>

#include "base/exact_sum.h"
#include "data/batches/windows.h"
#include "distributed/world.h"

namespace perceiver {

struct EvaluationResult;

/// Sums over scored targets. They do not depend on the order of the targets, nor on which rank scored them.
class Scores {
 public:
  /// Adds the target with index `place` in its document.
  void add(int64_t place, double nats, bool correct);
  void add(const Scores& other);
  int64_t tokens() const { return tokens_; }
  /// Sets the tokens, nats, correct targets and buckets of a result.
  void write(EvaluationResult& result) const;

 private:
  struct Bucket {
    ExactSum nats;
    int64_t tokens = 0;
  };
  int64_t tokens_ = 0, correct_ = 0;
  ExactSum nats_;
  std::array<Bucket, position_bucket_starts.size()> buckets_;
};

/// Collective: the scores of all ranks together, and the seconds of the slowest. A null `world` is one rank.
void add_up(World* world, Scores& scores, double& seconds);

}  // namespace perceiver
