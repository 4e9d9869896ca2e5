// Ranks as processes that meet through a file, for tests of how they end: forks, and what each reported.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "distributed/host_world.h"
#include "tests/support/temp_folder.h"

namespace perceiver {

/// What became of the ranks.
struct Ended {
  std::vector<int> codes;  ///< exit codes; 128 + signal
  std::string reports;     ///< lines of all ranks
  double seconds = 0;
};

class ProcessRanks {
  TempFolder folder_;

 public:
  using Work = std::function<void(HostWorld&)>;

  HostWorldOptions options;
  std::string meeting = file();

  ProcessRanks() {
    options.start_limit = Milliseconds(10'000);
    options.wait_limit = Milliseconds(10'000);
    options.heartbeat = Milliseconds(50);
  }
  ~ProcessRanks() {
    for (const pid_t pid : pids_)
      if (pid > 0 && kill(pid, SIGKILL) == 0) waitpid(pid, nullptr, 0);
  }

  /// Starts rank `rank` of `size`, which runs `work` after `delay`. An error is one for all ranks.
  void start(int rank, int size, const Work& work, Milliseconds delay = Milliseconds(0)) {
    if (pipe_[0] < 0 && pipe(pipe_) != 0) FAIL();
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) run(rank, size, work, delay);
    pids_.push_back(pid);
  }
  void start_all(int size, const Work& work) {
    for (int rank = 0; rank < size; ++rank) start(rank, size, work);
  }
  void send(int index, int signal) { ASSERT_EQ(kill(pids_[index], signal), 0); }
  /// Waits until `count` ranks have called `ready`.
  void wait_ready(int count) {
    char byte = 0;
    while (ready_ < count && read(pipe_[0], &byte, 1) == 1)
      byte == '+' ? void(++ready_) : reports_.push_back(byte);
  }
  /// For the work of a rank.
  void ready() const { (void)!write(pipe_[1], "+", 1); }
  /// One line of the result.
  void report(std::string line) const {
    line += '\n';
    (void)!write(pipe_[1], line.data(), line.size());
  }

  /// Waits for all ranks but those in `stopped`, which get `signal` then.
  Ended wait(const std::vector<int>& stopped = {}, int signal = SIGKILL) {
    const auto begin = std::chrono::steady_clock::now();
    Ended ended;
    ended.codes.resize(pids_.size());
    for (size_t i = 0; i < pids_.size(); ++i)
      if (std::find(stopped.begin(), stopped.end(), int(i)) == stopped.end()) ended.codes[i] = code_of(i);
    ended.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    for (const int i : stopped) {
      kill(pids_[i], signal);
      ended.codes[i] = code_of(i);
    }
    close(pipe_[1]);
    for (char byte = 0; read(pipe_[0], &byte, 1) == 1;)
      if (byte != '+') reports_.push_back(byte);
    close(pipe_[0]);
    ended.reports = reports_;
    return ended;
  }
  std::string file() const { return folder_.path("meeting"); }

 private:
  /// The world's thread ends the process.
  [[noreturn]] static void end(HostWorld& world, const Error& error) {
    world.fail(error);
    for (;;) pause();
  }

  int code_of(size_t i) {
    int status = 0;
    waitpid(pids_[i], &status, 0);
    pids_[i] = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  [[noreturn]] void run(int rank, int size, const Work& work, Milliseconds delay) {
    std::this_thread::sleep_for(delay);
    options.report = [this](const SharedError& error) { report(error.what()); };
    const ProcessPlace place{.launcher = Launcher::slurm,
                             .rank = rank,
                             .size = size,
                             .local_rank = -1,
                             .local_size = 0,
                             .meeting = meeting,
                             .password = ""};
    std::shared_ptr<HostWorld> world;
    try {
      world = HostWorld::open(place, options);
      work(*world);
      world->leave();
      world.reset();
    } catch (const SharedError& error) {
      if (world) end(*world, error);
      if (rank == 0) report(error.what());
      _exit(error.kind() == ErrorKind::user ? 2 : 1);
    } catch (const Error& error) {
      if (world) end(*world, error);
      report(error.what());
      _exit(error.kind() == ErrorKind::user ? 2 : 1);
    }
    _exit(0);
  }

  std::vector<pid_t> pids_;
  int pipe_[2] = {-1, -1};
  int ready_ = 0;
  std::string reports_;
};

}  // namespace perceiver
