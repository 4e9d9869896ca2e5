// Builds a folder of shards; a build that was killed can be continued.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "data/shards/shard_encode.h"
#include "data/shards/shard_summary.h"
#include "distributed/world.h"

namespace perceiver {

struct BuildProgress {
  EncodeCounts done;
  int64_t files = 0;  ///< in total
  int64_t bytes = 0;  ///< of all files
  int64_t shards_done = 0, shards = 0;
  int64_t shards_reused = 0;  ///< finished by an earlier build and verified
};

struct BuildOptions {
  int64_t shard_tokens = default_shard_tokens;
  bool strict = false;                                 ///< skip files that would have to be repaired
  int workers = 0;                                     ///< threads; 0 = one per CPU, of those that a rank has
  std::function<void(const BuildProgress&)> progress;  ///< called from any thread, but never concurrently
  World* world = nullptr;                              ///< the ranks that share the work; null = one
};

/// Builds the shards of `files` in `folder`, which is created. The bytes do not depend on the number of
/// workers. Shards finished by an earlier, killed build of the same files with the same options are verified
/// and kept. Throws `user` if the folder contains anything else, or another process is building there.
///
/// Over several ranks this is collective: shards are dealt to them in turn, all of which must see the same
/// files and folder, and every rank gets the summary, which rank 0 writes. Progress is that of a rank's own
/// shards, and at the end of all. An error on one rank, or World::request_stop, ends the build on all once
/// each is done with its current files; then `Cancelled` is thrown where there is no error.
ShardSummary build_shards(const SplitFiles& files, std::vector<FileRemark> skipped, const ModalityKind& kind,
                          const Modality& modality, const std::filesystem::path& folder,
                          const BuildOptions& options);

}  // namespace perceiver
