// Files into the documents of shards: which files share one, and the reading itself.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/shards/shard.h"
#include "data/splits.h"

namespace perceiver {

/// The files of one shard, in order.
struct ShardPlan {
  Split split = Split::train;
  std::vector<ListedFile> files;
};

/// About as many data tokens as a shard gets by default: small enough for every processor to have some.
inline constexpr int64_t default_shard_tokens = int64_t{1} << 24;

/// Shares the files of every split among shards: consecutive ones together until they reach `shard_tokens` by
/// `Modality::estimate_tokens`. Depends on names and sizes alone, so that a build can go on where it was
/// killed, whatever the number of workers.
std::vector<ShardPlan> plan_shards(const SplitFiles& files, const Modality& modality, int64_t shard_tokens);

/// What has become of files so far.
struct EncodeCounts {
  int64_t files = 0;
  int64_t bytes = 0;  ///< of the files
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t skipped = 0;

  EncodeCounts& operator+=(const EncodeCounts& other);
};

/// Encodes the files of one shard. A file that the modality refuses (a `user` error) or that holds no token
/// is noted as skipped; other errors are thrown. `done` is told of each file.
ShardBuilder encode_shard(const ShardPlan& plan, const ModalityKind& kind, const Modality& modality,
                          const std::function<void(const EncodeCounts&)>& done);

/// Calls work(0) … work(count − 1) from `workers` threads (0 = one per processor), each as soon as a thread
/// is free. The first exception ends the handing out and is thrown here once all threads are back.
void run_in_parallel(int64_t count, int workers, const std::function<void(int64_t)>& work);

}  // namespace perceiver
