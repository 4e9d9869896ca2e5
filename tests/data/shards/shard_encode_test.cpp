#include "data/shards/shard_encode.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "data/arrays/npy.h"
#include "data/audio/audio_file.h"
#include "data/shards/shard_build.h"
#include "data/shards/shard_file.h"
#include "data/shards/shard_inputs.h"
#include "io/atomic_file.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

TEST(RunInParallel, DoesEverythingOnceAndThrowsTheFirstFailure) {
  for (const int workers : {0, 1, 3, 20}) {
    std::mutex mutex;
    std::map<int64_t, int> seen;
    run_in_parallel(17, workers, [&](int64_t i) {
      const std::lock_guard lock(mutex);
      ++seen[i];
    });
    EXPECT_EQ(seen.size(), 17u);
    for (const auto& [i, count] : seen) EXPECT_EQ(count, 1) << i;
    EXPECT_THROW(run_in_parallel(17, workers,
                                 [](int64_t i) {
                                   if (i == 5) throw std::runtime_error("five");
                                 }),
                 std::runtime_error);
  }
  run_in_parallel(0, 2, [](int64_t) { FAIL(); });
}

}  // namespace
}  // namespace perceiver
