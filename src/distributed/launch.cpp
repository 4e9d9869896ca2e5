#include "distributed/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/check.h"
#include "distributed/process_place.h"

namespace perceiver {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kCannotStart = 127;  // as in a shell

/// A folder of this user alone, for the file in which the ranks meet.
class PrivateFolder {
 public:
  PrivateFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "perceiver-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr)
      throw_failure("cannot create '{}': {}", pattern, std::strerror(errno));
    path_ = pattern;
  }
  ~PrivateFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;

  std::string file(const char* name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

/// Strings as exec wants them.
class Words {
 public:
  explicit Words(std::vector<std::string> words) : words_(std::move(words)) {
    for (std::string& each : words_) pointers_.push_back(each.data());
    pointers_.push_back(nullptr);
  }
  char* const* data() { return pointers_.data(); }

 private:
  std::vector<std::string> words_;
  std::vector<char*> pointers_;
};

Words environment_of(int rank, int ranks, const std::string& meeting) {
  Variables variables = environment_variables();
  variables["PERCEIVER_RANK"] = variables["PERCEIVER_LOCAL_RANK"] = std::to_string(rank);
  variables["PERCEIVER_RANKS"] = variables["PERCEIVER_LOCAL_RANKS"] = std::to_string(ranks);
  variables["PERCEIVER_RENDEZVOUS"] = meeting;
  std::vector<std::string> words;
  for (const auto& [name, value] : variables) words.push_back(name + "=" + value);
  return Words(std::move(words));
}

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGCHLD}) sigaddset(&set, signal);
  return set;
}

/// A terminal belongs to the launcher: a rank that read it would be stopped. One reader is enough for a pipe.
void choose_input(int rank) {
  if (rank == 0 && isatty(STDIN_FILENO) == 0) return;
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null >= 0) dup2(null, STDIN_FILENO);
}

class Launched {
 public:
  explicit Launched(const LaunchOptions& options) : options_(options), signals_(handled_signals()) {}

  int run() {
    sigset_t before;
    sigprocmask(SIG_BLOCK, &signals_, &before);
    for (int rank = 0; rank < options_.ranks; ++rank) start(rank, before);
    while (running() > 0) {
      handle_signal();
      reap();
      if (deadline_ && Clock::now() > *deadline_) send(SIGKILL);
    }
    return code_;
  }

 private:
  /// In a process group of its own: what the terminal sends comes once, from here.
  void start(int rank, const sigset_t& mask) {
    Words arguments(options_.arguments);
    Words environment = environment_of(rank, options_.ranks, folder_.file("meeting"));
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(kCannotStart);
      setpgid(0, 0);
      choose_input(rank);
      sigprocmask(SIG_SETMASK, &mask, nullptr);
      execve(options_.program.c_str(), arguments.data(), environment.data());
      _exit(kCannotStart);
    }
    if (pid > 0) {
      pids_.push_back(pid);
      return;
    }
    const int error = errno;
    send(SIGKILL);
    throw_failure("cannot start rank {}: {}", rank, std::strerror(error));
  }

  size_t running() const { return pids_.size(); }

  void handle_signal() {
    const timespec limit{.tv_sec = 0, .tv_nsec = 200'000'000};
    siginfo_t info{};
    const int signal = sigtimedwait(&signals_, &info, &limit);
    if (signal < 0 || signal == SIGCHLD) return;
    send(signal);
    if (signal == SIGTSTP) raise(SIGSTOP);
  }

  void send(int signal) const {
    for (const pid_t pid : pids_) kill(pid, signal);
  }

  void reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      std::erase(pids_, pid);
      const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (code == 0 || code_ != 0) continue;
      code_ = code;
      deadline_ = Clock::now() + options_.grace;
    }
  }

  const LaunchOptions& options_;
  const sigset_t signals_;
  PrivateFolder folder_;
  std::vector<pid_t> pids_;
  int code_ = 0;
  std::optional<Clock::time_point> deadline_;  ///< after a failure
};

}  // namespace

int launch(const LaunchOptions& options) {
  return Launched(options).run();
}

}  // namespace perceiver
