// Signals during matrix products are delivered on a real stack: see kernels/cpu/blocked_signals.h.
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include <atomic>
#include <vector>

#include "kernels/gemm.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {
namespace {

pthread_t multiplying;
uintptr_t stack_begin = 0, stack_end = 0;
std::atomic<int> arrived = 0, astray = 0;

/// Counts signals of the thread that multiplies, and those whose frame is not on its stack.
void on_signal(int) {
  if (!pthread_equal(pthread_self(), multiplying)) return;  // threads that earlier tests have left
  const volatile char here = 0;
  const auto address = reinterpret_cast<uintptr_t>(&here);
  ++arrived;
  if (address < stack_begin || address >= stack_end) ++astray;
}

void find_stack() {
  multiplying = pthread_self();
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_getattr_np(pthread_self(), &attributes), 0);
  void* begin = nullptr;
  size_t size = 0;
  ASSERT_EQ(pthread_attr_getstack(&attributes, &begin, &size), 0);
  pthread_attr_destroy(&attributes);
  stack_begin = reinterpret_cast<uintptr_t>(begin);
  stack_end = stack_begin + size;
}

/// A signal every half millisecond of CPU time, to any thread.
class Alarms {
 public:
  Alarms() {
    before_ = ::signal(SIGPROF, on_signal);
    start(500);
  }
  ~Alarms() {
    start(0);
    ::signal(SIGPROF, before_);
  }

 private:
  static void start(int microseconds) {
    const itimerval interval{{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_PROF, &interval, nullptr);
  }
  sighandler_t before_;
};

void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k) {
  const std::vector<float> a(m * k, 1.0f), b(k * n, 1.0f);
  std::vector<float> c(m * n);
  kernels::Gemm product{};
  product.type = product.out_type = DType::f32;
  product.transpose_a = transpose_a;
  product.transpose_b = transpose_b;
  product.m = m;
  product.n = n;
  product.k = k;
  product.a = a.data();
  product.lda = transpose_a ? m : k;
  product.b = b.data();
  product.ldb = transpose_b ? k : n;
  product.c = c.data();
  product.ldc = n;
  for (int repeat = 0; repeat < 8; ++repeat) kernels::cpu::gemm(product);
  ASSERT_EQ(c.back(), static_cast<float>(k));
}

TEST(BlockedSignals, HaveAStackDuringProducts) {
  const auto context = DeviceContext::cpu(2);
  find_stack();
  {
    const Alarms alarms;
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        for (const int64_t k : {250, 1024, 4096}) multiply(transpose_a, transpose_b, 259, 320, k);
  }
  EXPECT_GT(arrived, 0);
  EXPECT_EQ(astray, 0);
}

TEST(BlockedSignals, AreDeliveredAfterProducts) {
  const auto context = DeviceContext::cpu(2);
  sigset_t before, after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  multiply(false, false, 64, 64, 64);
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (const int signal : {SIGINT, SIGTERM, SIGPROF, SIGALRM, SIGUSR1})
    EXPECT_EQ(sigismember(&before, signal), sigismember(&after, signal)) << signal;
}

}  // namespace
}  // namespace perceiver
