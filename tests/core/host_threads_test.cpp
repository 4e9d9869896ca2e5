// The number of threads belongs to a device context, whichever thread uses it.
#include <gtest/gtest.h>

#include <thread>

#include "base/worker_pool.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {
namespace {

int threads_of_loops(const DeviceContext& context) {
  context.launch();
  return WorkerPool::current()->threads();
}

TEST(HostThreads, HoldInEveryThreadThatUsesTheContext) {
  const auto one = DeviceContext::cpu(1), three = DeviceContext::cpu(3);
  for (int repeat = 0; repeat < 2; ++repeat) {
    EXPECT_EQ(threads_of_loops(*one), 1);
    EXPECT_EQ(threads_of_loops(*three), 3);
  }
  int elsewhere = 0;
  std::thread([&] { elsewhere = threads_of_loops(*three); }).join();
  EXPECT_EQ(elsewhere, 3);
  EXPECT_EQ(threads_of_loops(*one), 1);
}

}  // namespace
}  // namespace perceiver
