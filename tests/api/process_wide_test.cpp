// The library is a guest in its process: it leaves everything that belongs to the whole of it alone.
#include <gtest/gtest.h>
#include <omp.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cfenv>
#include <clocale>
#include <filesystem>
#include <string>
#include <vector>

#include "base/worker_pool.h"
#include "tests/support/own_data.h"
#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

struct ProcessState {
  std::vector<std::string> environment;
  std::filesystem::path folder;
  std::vector<std::string> handlers;  ///< the bytes of each signal's action
  std::string mask;                   ///< likewise, of this thread's signals
  mode_t file_mask = 0;
  std::string locale;
  int openmp_threads = 0, rounding = 0;

  bool operator==(const ProcessState&) const = default;
};

std::string signals_in(const sigset_t& set) {
  std::string members;
  for (int signal = 1; signal < NSIG; ++signal) members += sigismember(&set, signal) == 1 ? '1' : '0';
  return members;
}

ProcessState process_state() {
  ProcessState state;
  for (char** variable = environ; *variable != nullptr; ++variable) state.environment.push_back(*variable);
  state.folder = std::filesystem::current_path();
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action {};
    if (sigaction(signal, nullptr, &action) != 0) continue;
    state.handlers.push_back(std::to_string(reinterpret_cast<uintptr_t>(action.sa_handler)) +
                             signals_in(action.sa_mask));
  }
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  state.mask = signals_in(mask);
  state.file_mask = umask(0);
  umask(state.file_mask);
  state.locale = std::setlocale(LC_ALL, nullptr);
  state.openmp_threads = omp_get_max_threads();
  state.rounding = std::fegetround();
  return state;
}

int64_t thread_count() {
  using Tasks = std::filesystem::directory_iterator;
  return std::distance(Tasks("/proc/self/task"), Tasks());
}

/// A thread that has been joined may be listed for a moment.
bool threads_become(int64_t count) {
  for (int i = 0; i < 200 && thread_count() != count; ++i) usleep(10'000);
  return thread_count() == count;
}

TEST(ProcessWide, TrainingLeavesNoTraceInTheProcess) {
  const TempFolder folder;
  WorkerPool::use(nullptr);  // of tests before this one in the same process
  const ProcessState before = process_state();
  const int64_t threads = thread_count();
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  {
    Config config = own_config(4);
    config.threads = 2;
    config.model.input_channels = 64;  // enough for products that oneDNN divides among threads
    TrainingRun run(config, own_options(folder.path("run")));
    run.run();
    continuation(run.model());
    WorkerPool::use(nullptr);  // of the model that generated
  }
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_TRUE(process_state() == before);
  EXPECT_TRUE(threads_become(threads)) << thread_count() << " instead of " << threads;
}

}  // namespace
}  // namespace perceiver
