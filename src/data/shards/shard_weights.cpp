#include "data/shards/shard_weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "base/check.h"
#include "data/shards/shard_encode.h"

namespace perceiver {
namespace {

/// Whether the summary has the sum for `least` of every shard.
bool all_listed(const ShardSet& shards, int64_t least) {
  if (least > ShardContent::max_least || !std::has_single_bit(static_cast<uint64_t>(least))) return false;
  for (int64_t i = 0; i < shards.shards(); ++i)
    if (shards.content(i).weights.empty()) return false;
  return true;
}

}  // namespace

ShardWeights::ShardWeights(const ShardSet& shards, int64_t least, int64_t more)
    : shards_(shards), least_(least), more_(more), blocks_(static_cast<size_t>(shards.shards())) {
  PERCEIVER_ASSERT(least >= 1);
  const bool listed = all_listed(shards, least);
  if (!listed)
    run_in_parallel(shards.shards(), 0, [&](int64_t i) {
      blocks_[static_cast<size_t>(i)] = std::make_unique<const Sums>(sum_blocks(i));
    });
  for (int64_t i = 0; i < shards.shards(); ++i)
    ends_.push_back(total() + (listed ? listed_weight(i) : blocks_[static_cast<size_t>(i)]->back()));
}

uint64_t ShardWeights::listed_weight(int64_t shard) const {
  const auto power = static_cast<size_t>(std::countr_zero(static_cast<uint64_t>(least_)));
  return static_cast<uint64_t>(shards_.content(shard).weights[power]);
}

ShardWeights::Sums ShardWeights::sum_blocks(int64_t shard) const {
  constexpr int64_t at_once = 32 * block;  // a megabyte of index
  const ShardSet::Shard file = shards_.open(shard);
  std::vector<int64_t> lengths(static_cast<size_t>(std::min(at_once, file->documents())));
  Sums sums;
  uint64_t sum = 0;
  for (int64_t first = 0; first < file->documents(); first += at_once) {
    const auto count = static_cast<size_t>(std::min(at_once, file->documents() - first));
    file->lengths(first, std::span(lengths).first(count));
    for (size_t i = 0; i < count; ++i) {
      sum += weight(lengths[i]);
      if ((i + 1) % block == 0 || i + 1 == count) sums.push_back(sum);
    }
  }
  return sums;
}

const ShardWeights::Sums& ShardWeights::blocks(int64_t shard) const {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<const Sums>& sums = blocks_[static_cast<size_t>(shard)];
  if (sums != nullptr) return *sums;
  auto read = std::make_unique<const Sums>(sum_blocks(shard));
  if (read->back() != ends_[static_cast<size_t>(shard)] - start(shard))
    throw_user("{}: its documents weigh {}, not what {} says; rebuild the folder",
               shards_.open(shard)->source(), read->back(), summary_file_name);
  return *(sums = std::move(read));
}

int64_t ShardWeights::find(uint64_t drawn) const {
  PERCEIVER_ASSERT(drawn < total());
  const int64_t shard = std::upper_bound(ends_.begin(), ends_.end(), drawn) - ends_.begin();
  const Sums& sums = blocks(shard);
  const uint64_t inside = drawn - start(shard);
  const auto index = static_cast<size_t>(std::upper_bound(sums.begin(), sums.end(), inside) - sums.begin());
  const int64_t first = static_cast<int64_t>(index) * block;
  std::array<int64_t, block> lengths;
  const ShardSet::Shard file = shards_.open(shard);
  const auto count = static_cast<size_t>(std::min(block, file->documents() - first));
  file->lengths(first, std::span(lengths).first(count));
  uint64_t sum = index == 0 ? 0 : sums[index - 1];
  size_t i = 0;
  while ((sum += weight(lengths[i])) <= inside) ++i;
  return shards_.first_document(shard) + first + static_cast<int64_t>(i);
}

}  // namespace perceiver
