// Blocks signals while code runs that has no stack to deliver them on.
//
// oneDNN's generated float32 GEMMs point the stack pointer into a heap buffer (mov rsp, ARG_WS in its
// jit_avx512_common_gemm_f32.cpp; the AVX kernels do the same). A signal delivered then has its frame, a few
// KiB, written below that buffer, over other data of the program.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace perceiver::kernels::cpu {

/// Blocks signals to this thread during its lifetime, except faults of the thread itself. The workers of a
/// WorkerPool never receive any.
class BlockedSignals {
 public:
  BlockedSignals() {
    const sigset_t signals = all_but_faults();
    pthread_sigmask(SIG_BLOCK, &signals, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

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
