#include "distributed/host_world.h"

#include <gmock/gmock.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "base/check.h"
#include "tests/support/process_world.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

TEST(HostWorld, GathersInOrderOfRanks) {
  ProcessRanks ranks;
  ranks.start_all(4, [&](HostWorld& world) {
    for (int round = 0; round < 100; ++round) {
      const auto all = world.gather(fmt::format("{}/{}", world.rank(), round), "a round");
      for (int rank = 0; rank < 4; ++rank)
        if (all.at(rank) != fmt::format("{}/{}", rank, round)) ranks.report("wrong: " + all[rank]);
    }
    if (world.from_leader(std::to_string(world.rank()), "x") != "0") ranks.report("not the leader's");
    if (!world.any(world.rank() == 2, "x") || world.any(false, "x")) ranks.report("any");
    if (world.local_rank() != world.rank() || world.local_size() != 4) ranks.report("place on the host");
  });
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(0));
  EXPECT_EQ(ended.reports, "");
}

TEST(HostWorld, GathersMoreThanASocketHolds) {
  ProcessRanks ranks;
  ranks.start_all(3, [&](HostWorld& world) {
    const std::string mine(20 << 20, static_cast<char>('a' + world.rank()));
    const auto all = world.gather(mine, "much");
    for (int rank = 0; rank < 3; ++rank)
      if (all[rank] != std::string(20 << 20, static_cast<char>('a' + rank))) ranks.report("wrong");
  });
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(0));
  EXPECT_EQ(ended.reports, "");
}

TEST(HostWorld, AWorldOfOneNeedsNobody) {
  ProcessRanks ranks;
  ranks.start(0, 1, [&](HostWorld& world) {
    if (world.gather("x", "x") != std::vector<std::string>{"x"}) ranks.report("wrong");
  });
  EXPECT_THAT(ranks.wait().codes, Each(0));
}

TEST(HostWorld, ARankMayStartLate) {
  ProcessRanks ranks;
  const auto work = [](HostWorld& world) { world.gather("", "x"); };
  ranks.start(0, 3, work, Milliseconds(300));
  ranks.start(1, 3, work);
  ranks.start(2, 3, work, Milliseconds(700));
  EXPECT_THAT(ranks.wait().codes, Each(0));
}

TEST(HostWorld, ARankThatDoesNotAppearIsNamed) {
  ProcessRanks ranks;
  ranks.options.start_limit = Milliseconds(500);
  for (const int rank : {0, 2}) ranks.start(rank, 4, [](HostWorld&) {});
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(1));
  EXPECT_THAT(ended.reports, AllOf(HasSubstr("ranks 1 and 3 did not appear"), HasSubstr("--start-timeout")));
  EXPECT_EQ(std::count(ended.reports.begin(), ended.reports.end(), '\n'), 1);
  EXPECT_LT(ended.seconds, 5);
}

TEST(HostWorld, WithoutRankZeroTheOthersGiveUp) {
  ProcessRanks ranks;
  ranks.options.start_limit = Milliseconds(300);
  ranks.start(1, 2, [](HostWorld&) {});
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(1));
  EXPECT_THAT(ended.reports, AllOf(HasSubstr("rank 0 was not found within"), HasSubstr("from host ")));
}

TEST(HostWorld, AFileOfAnEarlierRunDoesNotMislead) {
  ProcessRanks ranks;
  write_meeting_file(ranks.file(),
                     {.addresses = {"127.0.0.1"}, .port = 9, .token = "old", .boot = "another"});
  const auto work = [](HostWorld& world) { world.gather("", "x"); };
  ranks.start(1, 2, work);
  ranks.start(0, 2, work, Milliseconds(300));
  EXPECT_THAT(ranks.wait().codes, Each(0));
  EXPECT_FALSE(std::filesystem::exists(ranks.file()));
}

TEST(HostWorld, RanksOfDifferentSizesAreNamed) {
  ProcessRanks ranks;
  ranks.start(0, 2, [](HostWorld&) {});
  ranks.start(1, 3, [](HostWorld&) {});
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(2));
  EXPECT_THAT(ended.reports, AllOf(HasSubstr("rank 0 (host"), HasSubstr("one of 2 ranks, but rank 1 (host"),
                                   HasSubstr("as one of 3")));
  EXPECT_EQ(std::count(ended.reports.begin(), ended.reports.end(), '\n'), 1);
}

TEST(HostWorld, TwoRanksWithOneNumberAreNamed) {
  ProcessRanks ranks;
  for (const int rank : {0, 1, 1}) ranks.start(rank, 3, [](HostWorld&) {});
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(2));
  EXPECT_THAT(ended.reports, HasSubstr("two processes have the same number, rank 1 (host"));
}

TEST(HostWorld, AKilledRankEndsAllWithOneLine) {
  for (const int victim : {0, 1, 2}) {
    SCOPED_TRACE(victim);
    ProcessRanks ranks;
    ranks.options.after_death = [] { return std::string("; continue with --resume"); };
    ranks.start_all(3, [&](HostWorld& world) {
      world.gather("", "step 7");
      ranks.ready();
      if (world.rank() == victim) pause();
      world.gather("", "step 8");
    });
    ranks.wait_ready(3);
    ranks.send(victim, SIGKILL);
    const Ended ended = ranks.wait();
    for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(ended.codes[rank], rank == victim ? 128 + SIGKILL : 1);
    EXPECT_THAT(ended.reports,
                AllOf(HasSubstr(fmt::format("rank {} (host", victim)), HasSubstr("ended without a message"),
                      HasSubstr("during step"), HasSubstr("; continue with --resume")));
    EXPECT_EQ(std::count(ended.reports.begin(), ended.reports.end(), '\n'), 1) << ended.reports;
    EXPECT_LT(ended.seconds, 5);
  }
}

TEST(HostWorld, AStoppedRankIsNamedWithinTheLimit) {
  for (const int victim : {0, 2}) {
    SCOPED_TRACE(victim);
    ProcessRanks ranks;
    ranks.options.wait_limit = Milliseconds(600);
    ranks.start_all(3, [&](HostWorld& world) {
      ranks.ready();
      if (world.rank() == victim) pause();
      world.gather("", "step 8");
    });
    ranks.wait_ready(3);
    ranks.send(victim, SIGSTOP);
    const Ended ended = ranks.wait({victim});
    for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(ended.codes[rank], rank == victim ? 128 + SIGKILL : 1);
    EXPECT_THAT(ended.reports, AllOf(HasSubstr(fmt::format("rank {} (host", victim)),
                                     HasSubstr("not been heard of"), HasSubstr("step 8")));
    EXPECT_EQ(std::count(ended.reports.begin(), ended.reports.end(), '\n'), 1) << ended.reports;
    EXPECT_LT(ended.seconds, 10);
  }
}

// As mpirun wakes it, to end it.
TEST(HostWorld, AStoppedLeaderThatWakesWhenTheOthersHaveEndedSaysNothingMore) {
  ProcessRanks ranks;
  ranks.options.wait_limit = Milliseconds(600);
  ranks.start_all(4, [&](HostWorld& world) {
    ranks.ready();
    if (world.rank() == 0) pause();
    world.gather("", "step 8");
  });
  ranks.wait_ready(4);
  ranks.send(0, SIGSTOP);
  const Ended ended = ranks.wait({0}, SIGCONT);
  EXPECT_THAT(ended.codes, Each(1));
  EXPECT_THAT(ended.reports, AllOf(HasSubstr("rank 0 (host"), HasSubstr("not been heard of")));
  EXPECT_EQ(std::count(ended.reports.begin(), ended.reports.end(), '\n'), 1) << ended.reports;
}

TEST(HostWorld, AnErrorThatAStoppedLeaderDidNotHearOfIsReportedOnce) {
  for (const bool shared : {false, true}) {
    SCOPED_TRACE(shared);
    ProcessRanks ranks;
    ranks.options.answer_limit = Milliseconds(500);
    ranks.start_all(2, [&](HostWorld& world) {
      ranks.ready();
      if (world.rank() == 0) pause();
      std::this_thread::sleep_for(Milliseconds(200));  // rank 0 is stopped meanwhile
      if (shared) throw SharedError(ErrorKind::failure, "the disk is full");
      throw_failure("the disk is full");
    });
    ranks.wait_ready(2);
    ranks.send(0, SIGSTOP);
    const Ended ended = ranks.wait({0}, SIGCONT);
    EXPECT_THAT(ended.codes, Each(1));
    EXPECT_EQ(ended.reports, shared ? "the disk is full\n" : "rank 1: the disk is full\n");
  }
}

TEST(HostWorld, TheStepOfAKilledRankIsNotThatOfItsLastHeartbeat) {
  ProcessRanks ranks;
  ranks.options.heartbeat = Milliseconds(1000);
  ranks.start_all(2, [&](HostWorld& world) {
    std::this_thread::sleep_for(Milliseconds(200));  // past the first heartbeat
    for (int step = 1; step <= 7; ++step) world.gather("", fmt::format("step {}", step));
    ranks.ready();
    if (world.rank() == 1) pause();
    world.gather("", "step 8");
  });
  ranks.wait_ready(2);
  ranks.send(1, SIGKILL);
  EXPECT_THAT(ranks.wait().reports,
              AllOf(HasSubstr("rank 1 (host"), testing::ContainsRegex("during step [78];")));
}

TEST(HostWorld, ARankThatIsLateIsNamed) {
  ProcessRanks ranks;
  ranks.options.wait_limit = Milliseconds(500);
  ranks.start_all(3, [&](HostWorld& world) {
    world.gather("", "step 1");
    if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(20));
    const World::Wait wait(&world, "step 2");
    world.gather("", "step 2");
  });
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(1));
  EXPECT_THAT(ended.reports,
              AllOf(HasSubstr("in step 2: rank 1 (host"), HasSubstr("is behind, busy since step 1")));
  EXPECT_EQ(std::count(ended.reports.begin(), ended.reports.end(), '\n'), 1) << ended.reports;
}

TEST(HostWorld, ARankThatGetsOnWithItsWorkMayBeLate) {
  ProcessRanks ranks;
  // Twelve times a part: other tests on the machine may hold a rank up for a second.
  ranks.options.wait_limit = Milliseconds(3000);
  ranks.start_all(3, [&](HostWorld& world) {
    for (int part = 0; world.rank() == 1 && part < 16; ++part) {
      std::this_thread::sleep_for(std::chrono::milliseconds(250));
      world.still_working();
    }
    world.gather("", "an evaluation");
  });
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(0)) << ended.reports;
}

TEST(HostWorld, AllRanksStoppedForAWhileGoOn) {
  ProcessRanks ranks;
  ranks.options.wait_limit = Milliseconds(1500);
  ranks.start_all(2, [&](HostWorld& world) {
    ranks.ready();
    for (int i = 0; i < 20; ++i) {
      std::this_thread::sleep_for(Milliseconds(20));
      world.gather("", "x");
    }
  });
  ranks.wait_ready(2);
  for (const int signal : {SIGSTOP, SIGCONT}) {
    for (const int rank : {0, 1}) ranks.send(rank, signal);
    if (signal == SIGSTOP) std::this_thread::sleep_for(Milliseconds(2000));
  }
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(0));
  EXPECT_EQ(ended.reports, "");
}

TEST(HostWorld, AnErrorOnOneRankIsReportedOnce) {
  for (const int culprit : {0, 2}) {
    ProcessRanks ranks;
    ranks.start_all(3, [&](HostWorld& world) {
      if (world.rank() == culprit) throw_failure("the disk is full");
      world.gather("", "x");
    });
    const Ended ended = ranks.wait();
    EXPECT_THAT(ended.codes, Each(1));
    EXPECT_EQ(ended.reports, fmt::format("rank {}: the disk is full\n", culprit));
  }
}

TEST(HostWorld, AMistakeThatRankZeroFindsIsThatOfAll) {
  ProcessRanks ranks;
  ranks.start_all(2, [&](HostWorld& world) {
    if (world.rank() == 0) throw_user("the folder is there");
    world.gather("", "x");
  });
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(2));
  EXPECT_EQ(ended.reports, "the folder is there\n");
}

TEST(HostWorld, RanksThatFailAlikeReportOnce) {
  ProcessRanks ranks;
  ranks.start_all(3, [](HostWorld&) { throw_user("no such file"); });
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(2));
  EXPECT_EQ(ended.reports, "no such file\n");
}

TEST(HostWorld, AnErrorOfAllRanksIsReportedOnce) {
  ProcessRanks ranks;
  ranks.start_all(
      3, [&](HostWorld& world) { world.require_same(std::to_string(world.rank() / 2), "the data"); });
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(2));
  EXPECT_EQ(ended.reports,
            "the ranks differ in the data: rank 0 has 0, rank 2 has 1; start every rank the same way\n");
}

TEST(HostWorld, ARequestToStopReachesAll) {
  static std::atomic<bool> flag = false;
  for (const int asked : {0, 2}) {
    ProcessRanks ranks;
    ranks.options.stop = &flag;
    ranks.start_all(3, [&](HostWorld& world) {
      world.gather("", "x");
      if (world.rank() == asked) asked == 0 ? world.request_stop() : void(flag = true);
      while (!world.stop_requested()) std::this_thread::sleep_for(Milliseconds(5));
    });
    const Ended ended = ranks.wait();
    EXPECT_THAT(ended.codes, Each(0));
    EXPECT_EQ(ended.reports, "");
  }
}

TEST(HostWorld, ARankThatLeavesEarlyIsNamed) {
  ProcessRanks ranks;
  ranks.start(0, 2, [](HostWorld& world) { world.gather("", "step 9"); });
  ranks.start(1, 2, [](HostWorld&) {});
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(1));
  EXPECT_THAT(ended.reports, AllOf(HasSubstr("rank 0 is at step 9"), HasSubstr("at the end of the run")));
}

TEST(HostWorld, MeetsAtAnAddress) {
  const int port = listen_at(0, true).port;
  ProcessRanks ranks;
  ranks.meeting = fmt::format("localhost:{}", port);
  ranks.start(1, 2, [](HostWorld& world) { world.gather("", "x"); });
  ranks.start(
      0, 2, [](HostWorld& world) { world.gather("", "x"); }, Milliseconds(100));
  EXPECT_THAT(ranks.wait().codes, Each(0));
}

TEST(HostWorld, APortInUseIsNamed) {
  const Listener taken = listen_at(0, false);
  ProcessRanks ranks;
  ranks.meeting = fmt::format("localhost:{}", taken.port);
  ranks.start(0, 2, [](HostWorld&) {});
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(1));
  EXPECT_THAT(ended.reports, HasSubstr(fmt::format("port {}", taken.port)));
  EXPECT_THAT(ended.reports, HasSubstr("is in use"));
}

TEST(HostWorld, AnAddressThatNobodyHasIsNamed) {
  ProcessRanks ranks;
  ranks.options.start_limit = Milliseconds(300);
  ranks.meeting = "no-such-host.invalid:29500";
  ranks.start(1, 2, [](HostWorld&) {});
  const Ended ended = ranks.wait();
  EXPECT_THAT(ended.codes, Each(1));
  EXPECT_THAT(ended.reports,
              AllOf(HasSubstr("at no-such-host.invalid:29500"), HasSubstr("(no-such-host.invalid: ")));
}

TEST(HostWorld, StrangersAreKeptOut) {
  const int port = listen_at(0, true).port;
  ProcessRanks ranks;
  ranks.meeting = fmt::format("localhost:{}", port);
  ranks.start(0, 2, [](HostWorld& world) { world.gather("", "x"); });
  const auto knock = [&](const std::string& bytes) {
    for (int i = 0; i < 200; ++i) {
      const Attempt attempt = connect_to("127.0.0.1", port, Milliseconds(1000));
      if (!attempt.socket.valid()) {
        std::this_thread::sleep_for(Milliseconds(10));
        continue;
      }
      EXPECT_EQ(send(attempt.socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), int(bytes.size()));
      char answer = 0;
      wait_readable(attempt.socket.get(), Milliseconds(5000));
      return recv(attempt.socket.get(), &answer, 1, 0);  // 0: it hung up
    }
    return ssize_t{-2};
  };
  EXPECT_LE(knock("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), 0);
  std::string huge("PAR1\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f", 16);
  EXPECT_LE(knock(huge), 0);
  Member other = this_member(ProcessPlace{}, "a wrong token");
  other.rank = 1;
  other.size = 2;
  const std::string hello = to_text(other);
  std::string message("PAR1\0\0\0\0", 8);
  const uint64_t bytes = hello.size();
  message.append(reinterpret_cast<const char*>(&bytes), sizeof bytes);
  EXPECT_LE(knock(message + hello), 0);
  ranks.start(1, 2, [](HostWorld& world) { world.gather("", "x"); });
  EXPECT_THAT(ranks.wait().codes, Each(0));
}

}  // namespace
}  // namespace perceiver
