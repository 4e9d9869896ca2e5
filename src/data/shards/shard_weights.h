// Weights of the documents of shards, without a number for every document.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "data/document_weights.h"
#include "data/shards/shard_set.h"

namespace perceiver {

/// Keeps a sum per shard and, once something was drawn from a shard, a sum per `block` of its documents; the
/// rest is read from the shard's index at each draw.
///
/// The sums of the shards are in the summary if `least` is a power of two up to ShardContent::max_least (and
/// the program that made the folder knew of them); else every index is read once here, by all processors.
class ShardWeights final : public DocumentWeights {
 public:
  static constexpr int64_t block = 4096;

  /// The documents have `more` targets than tokens in their shards. `shards` must outlive this.
  ShardWeights(const ShardSet& shards, int64_t least, int64_t more);
  uint64_t total() const override { return ends_.empty() ? 0 : ends_.back(); }
  int64_t find(uint64_t drawn) const override;

 private:
  using Sums = std::vector<uint64_t>;
  uint64_t listed_weight(int64_t shard) const;
  uint64_t start(int64_t shard) const { return shard == 0 ? 0 : ends_[static_cast<size_t>(shard) - 1]; }
  const Sums& blocks(int64_t shard) const;
  Sums sum_blocks(int64_t shard) const;
  uint64_t weight(int64_t tokens) const { return static_cast<uint64_t>(std::max(least_, tokens + more_)); }

  const ShardSet& shards_;
  int64_t least_, more_;
  Sums ends_;  ///< running sums of the shards' weights
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<const Sums>> blocks_;  ///< running sums by shard; null: not yet read
};

}  // namespace perceiver
