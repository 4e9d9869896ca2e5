#include "distributed/rank_watch.h"

#include <gmock/gmock.h>

namespace perceiver {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::vector<Member> members(int count) {
  std::vector<Member> all(count);
  for (int rank = 0; rank < count; ++rank) {
    all[rank].rank = rank;
    all[rank].host = "node" + std::to_string(rank);
    all[rank].pid = 100 + rank;
  }
  return all;
}

RankStatus state(int64_t finished, double waited, std::string what, double silent = 0) {
  return {finished, waited, std::move(what), silent};
}

std::string overdue(const std::vector<RankStatus>& states) {
  return overdue(members(static_cast<int>(states.size())), states, 60, 5);
}

TEST(Overdue, NobodyIsBlamedWithinTheLimit) {
  EXPECT_EQ(overdue({state(5, 59, "step 6"), state(5, -1, "step 5", 59)}), "");
  EXPECT_EQ(overdue({state(5, -1, "step 5")}), "");
}

TEST(Overdue, NamesTheRankThatIsSilent) {
  EXPECT_THAT(
      overdue({state(5, 61, "step 6"), state(5, 61, "step 6"), state(5, 0, "step 6", 58)}),
      AllOf(HasSubstr("rank 0 has waited 61 s in step 6"), HasSubstr("rank 2 (host node2, pid 102), last in"),
            HasSubstr("58 s"), HasSubstr("--collective-timeout"), Not(HasSubstr("rank 1"))));
}

TEST(Overdue, NamesARankThatIsSilentAlthoughNobodyWaits) {
  EXPECT_THAT(overdue({state(5, -1, "step 5"), state(5, -1, "step 5", 61)}), HasSubstr("rank 1 (host node1"));
}

TEST(Overdue, NamesRanksThatAreBehind) {
  EXPECT_THAT(overdue({state(6, 61, "step 7"), state(5, -1, "step 6"), state(5, -1, "step 6"),
                       state(6, 61, "step 7")}),
              HasSubstr("ranks 1 and 2 are behind, busy since step 6"));
}

TEST(Overdue, NamesTheRankThatDoesNotWait) {
  EXPECT_THAT(overdue({state(6, 61, "step 7"), state(6, -1, "step 6")}),
              HasSubstr("rank 1 (host node1, pid 101) is"));
}

TEST(Overdue, SaysThatAllWait) {
  EXPECT_THAT(overdue({state(6, 61, "step 7"), state(6, 60, "step 7")}), HasSubstr("all ranks wait there"));
}

TEST(RankStatus, SurvivesItsText) {
  const RankStatus back = parse_status(to_text(state(12, 3.5, "the end of step 3")));
  EXPECT_EQ(back.finished, 12);
  EXPECT_DOUBLE_EQ(back.waited, 3.5);
  EXPECT_EQ(back.what, "the end of step 3");
}

TEST(RankStatus, TextThatIsNoneIsHarmless) {
  for (const char* text : {"", "x", "1", "1 ", "1 nan x", "99999999999999999999999 1 x"})
    EXPECT_LE(parse_status(text).waited, 1) << text;
  EXPECT_LE(parse_status("1 2 " + std::string(100000, 'x')).what.size(), 200u);
}

TEST(WatchClock, StandsStillWhileTheProcessIsStopped) {
  using std::chrono::seconds;
  const auto start = std::chrono::steady_clock::now();
  WatchClock watch;
  watch.advance(start);
  watch.advance(start + std::chrono::milliseconds(500));
  EXPECT_DOUBLE_EQ(watch.seconds(), 0.5);
  watch.advance(start + seconds(3600));
  EXPECT_DOUBLE_EQ(watch.seconds(), 1.5);
}

TEST(NamesOf, ListsAFewRanks) {
  EXPECT_EQ(names_of({3}), "rank 3");
  EXPECT_EQ(names_of({3, 5}), "ranks 3 and 5");
  EXPECT_EQ(names_of({1, 3, 5}), "ranks 1, 3 and 5");
  EXPECT_EQ(names_of({1, 2, 3, 4, 5, 6, 7, 8}), "ranks 1, 2, 3, 4, 5, 6, 7 and 8");
  EXPECT_EQ(names_of({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}), "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
}

}  // namespace
}  // namespace perceiver
