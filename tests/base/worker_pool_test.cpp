#include "base/worker_pool.h"

#include <gmock/gmock.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace perceiver {
namespace {

TEST(WorkerPool, CallsEachPartOnce) {
  WorkerPool pool(4);
  for (const int64_t parts : {0, 1, 2, 3, 4, 5, 1000}) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(parts));
    pool.run(parts, [&](int64_t part) { ++calls[static_cast<size_t>(part)]; });
    for (const std::atomic<int>& count : calls) EXPECT_EQ(count, 1);
  }
}

// Late workers meet loops that have ended, and loops of other sizes.
TEST(WorkerPool, ShortLoopsInSuccessionDoNotMix) {
  WorkerPool pool(4);
  for (int64_t loop = 0; loop < 20'000; ++loop) {
    const int64_t parts = 2 + loop % 7;
    std::array<std::atomic<int64_t>, 8> seen{};
    pool.run(parts, [&](int64_t part) { seen[static_cast<size_t>(part)] += loop + 1; });
    for (int64_t part = 0; part < 8; ++part)
      ASSERT_EQ(seen[static_cast<size_t>(part)], part < parts ? loop + 1 : 0) << loop;
  }
}

TEST(WorkerPool, WorkersTakePart) {
  WorkerPool pool(3);
  std::mutex mutex;
  std::condition_variable all_here;
  std::set<std::thread::id> threads;
  // Each part waits for the two others: on fewer than three threads this would not end.
  pool.run(3, [&](int64_t) {
    std::unique_lock lock(mutex);
    threads.insert(std::this_thread::get_id());
    all_here.notify_all();
    all_here.wait(lock, [&] { return threads.size() == 3; });
  });
  EXPECT_TRUE(threads.contains(std::this_thread::get_id()));
}

TEST(WorkerPool, ALoopInsideALoopRunsOnItsThread) {
  WorkerPool pool(3);
  std::atomic<int> calls = 0, elsewhere = 0;
  pool.run(8, [&](int64_t) {
    const auto outer = std::this_thread::get_id();
    pool.run(5, [&](int64_t) { ++calls, elsewhere += std::this_thread::get_id() != outer; });
  });
  EXPECT_EQ(calls, 40);
  EXPECT_EQ(elsewhere, 0);
}

TEST(WorkerPool, ServesSeveralThreadsAtOnce) {
  WorkerPool pool(2);
  std::atomic<int64_t> sum = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int loop = 0; loop < 500; ++loop) pool.run(10, [&](int64_t part) { sum += part; });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * 500 * 45);
}

TEST(WorkerPool, RethrowsAndStaysUsable) {
  WorkerPool pool(3);
  for (int repeat = 0; repeat < 100; ++repeat) {
    EXPECT_THROW(pool.run(10,
                          [](int64_t part) {
                            if (part == 7) throw std::runtime_error("part 7");
                          }),
                 std::runtime_error);
    std::atomic<int> calls = 0;
    pool.run(10, [&](int64_t) { ++calls; });
    ASSERT_EQ(calls, 10);
  }
}

TEST(WorkerPool, WorkersBlockSignals) {
  WorkerPool pool(2);
  std::atomic<int> arrived = 0;
  std::atomic<bool> blocked = false;
  const auto caller = std::this_thread::get_id();
  pool.run(2, [&](int64_t) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();  // one part on each thread
    if (std::this_thread::get_id() == caller) return;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    blocked = sigismember(&mask, SIGINT) == 1 && sigismember(&mask, SIGALRM) == 1 &&
              sigismember(&mask, SIGSEGV) == 0;
  });
  EXPECT_TRUE(blocked);
}

double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// The bound is a thousand times what spinning takes.
TEST(WorkerPool, IdleWorkersSleep) {
  WorkerPool pool(8);
  pool.run(100, [](int64_t) {});
  const double before = processor_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(processor_seconds() - before, 0.1);
}

}  // namespace
}  // namespace perceiver
