#include "distributed/launch.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

/// Runs a launcher of `ranks` shells with `script`, as a process of its own: it changes the signal mask.
class LauncherProcess {
 public:
  LauncherProcess(int ranks, const std::string& script, Milliseconds grace = Milliseconds(5'000))
      : pid_(fork()) {
    if (pid_ > 0) return;
    _exit(launch({.program = "/bin/sh", .arguments = {"sh", "-c", script}, .ranks = ranks, .grace = grace}));
  }
  void send(int signal) const { kill(pid_, signal); }
  int wait() const {
    int status = 0;
    waitpid(pid_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

std::string content(const std::string& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

bool appears(const std::string& file) {
  for (int i = 0; i < 500 && !std::filesystem::exists(file); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return std::filesystem::exists(file);
}

bool ends(pid_t pid) {
  for (int i = 0; i < 500; ++i) {
    // A process that nobody has waited for yet has ended as well.
    if (kill(pid, 0) != 0 ||
        content("/proc/" + std::to_string(pid) + "/stat").find(") Z ") != std::string::npos)
      return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(Launch, TellsEachRankItsPlace) {
  const TempFolder folder;
  const std::string out = folder.path("rank");
  LauncherProcess ranks(
      3, "echo $PERCEIVER_RANK $PERCEIVER_RANKS $PERCEIVER_LOCAL_RANK $PERCEIVER_LOCAL_RANKS > " + out +
             "$PERCEIVER_RANK; test -d $(dirname $PERCEIVER_RENDEZVOUS)");
  EXPECT_EQ(ranks.wait(), 0);
  for (int rank = 0; rank < 3; ++rank) {
    const std::string number = std::to_string(rank);
    EXPECT_EQ(content(out + number), number + " 3 " + number + " 3\n");
  }
}

TEST(Launch, ReturnsTheCodeOfTheFirstThatFailed) {
  EXPECT_EQ(LauncherProcess(2, "test $PERCEIVER_RANK = 0 || exit 7; sleep 0.3; exit 1").wait(), 7);
  EXPECT_EQ(LauncherProcess(2, "test $PERCEIVER_RANK = 0 || kill -KILL $$; sleep 0.3; exit 1").wait(),
            128 + SIGKILL);
}

TEST(Launch, KillsTheOthersAfterAGrace) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(
      LauncherProcess(2, "test $PERCEIVER_RANK = 0 && exit 3; exec sleep 100", Milliseconds(100)).wait(), 3);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(Launch, HandsOnASignalOnce) {
  const TempFolder folder;
  const std::string file = folder.path("rank");
  LauncherProcess ranks(2, "trap 'echo got >> " + file + "$PERCEIVER_RANK.got' TERM; touch " + file +
                               "$PERCEIVER_RANK; for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done");
  for (const char* rank : {"0", "1"}) ASSERT_TRUE(appears(file + rank));
  ranks.send(SIGTERM);
  EXPECT_EQ(ranks.wait(), 0);
  for (const char* rank : {"0", "1"}) EXPECT_EQ(content(file + rank + ".got"), "got\n");
}

TEST(Launch, NoRankOutlivesTheLauncher) {
  const TempFolder folder;
  const std::string file = folder.path("pid");
  LauncherProcess ranks(2, "echo $$ > " + file + "$PERCEIVER_RANK.tmp; mv " + file + "$PERCEIVER_RANK.tmp " +
                               file + "$PERCEIVER_RANK; exec sleep 100");
  for (const char* rank : {"0", "1"}) ASSERT_TRUE(appears(file + rank));
  ranks.send(SIGKILL);
  ranks.wait();
  for (const char* rank : {"0", "1"}) EXPECT_TRUE(ends(std::stoi(content(file + rank))));
}

}  // namespace
}  // namespace perceiver
