// Encodes files into shards: decides which files share a shard, then encodes them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/shards/shard_builder.h"
#include "data/splits.h"

namespace perceiver {

/// The files of one shard, in order.
struct ShardPlan {
  Split split = Split::train;
  std::vector<ListedFile> files;
};

/// Approximate data tokens per shard by default: small enough that every CPU gets some shards.
inline constexpr int64_t default_shard_tokens = int64_t{1} << 24;

/// Assigns the files of every split to shards: consecutive files share one until they reach `shard_tokens` by
/// `Modality::estimate_tokens`. Depends only on names and sizes, not on the number of workers, which allows a
/// killed build to continue.
std::vector<ShardPlan> plan_shards(const SplitFiles& files, const Modality& modality, int64_t shard_tokens);

/// Counts of what has been encoded so far.
struct EncodeCounts {
  int64_t files = 0;
  int64_t bytes = 0;  ///< of the source files
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t skipped = 0;

  EncodeCounts& operator+=(const EncodeCounts& other);
};

/// Encodes the files of one shard. A file that cannot be read, that the modality refuses (a `user` error) or
/// that has no tokens is recorded as skipped; if it was named itself, the error is thrown, as other errors
/// are. What was repaired is recorded, too; `strict` skips such files. `done` is called after each file.
ShardBuilder encode_shard(const ShardPlan& plan, const ModalityKind& kind, const Modality& modality,
                          bool strict, const std::function<void(const EncodeCounts&)>& done);

/// Calls work(0) … work(count − 1) from `workers` threads (0 = one per CPU), each as soon as a thread is
/// free. After the first exception no more work starts; it is rethrown here once all threads have finished.
void run_in_parallel(int64_t count, int workers, const std::function<void(int64_t)>& work);

}  // namespace perceiver
