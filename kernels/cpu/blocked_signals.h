// Signals kept away from code that has no stack to take them on.
//
// oneDNN's generated float32 products point the stack pointer into a buffer on the heap and go on from there
// (mov rsp, ARG_WS in its jit_avx512_common_gemm_f32.cpp; the AVX kernels do the same). A signal that arrives
// then has its frame, a few KiB, written below that buffer: over whatever else the program keeps there.
#pragma once

#include <omp.h>
#include <pthread.h>
#include <signal.h>

namespace perceiver::kernels::cpu {

/// While it lives, signals for this thread wait. Faults of the thread itself cannot wait.
class BlockedSignals {
 public:
  BlockedSignals() {
    const sigset_t held = all_but_faults();
    pthread_sigmask(SIG_BLOCK, &held, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

  /// The other threads of this one's OpenMP team take no more signals from now on; they have no need to.
  /// Asked before each product, because OpenMP ends and starts threads as it likes; a team that is there
  /// answers in about a microsecond. calls of each time cost as much as a small product. Threads that the
  /// team is given later start out with the mask of the one that starts them.
  static void block_in_team() {
#pragma omp parallel
    {
      thread_local bool kept = false;
      if (omp_get_thread_num() != 0 && !kept) {
        const sigset_t held = all_but_faults();
        pthread_sigmask(SIG_BLOCK, &held, nullptr);
        kept = true;
      }
    }
  }

 private:
  static sigset_t all_but_faults() {
    sigset_t set;
    sigfillset(&set);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS})
      sigdelset(&set, fault);
    return set;
  }

  sigset_t before_;
};

}  // namespace perceiver::kernels::cpu
