#include "distributed/meeting.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Member member(int rank) {
  Member each;
  each.rank = rank;
  each.size = 4;
  each.host = "node" + std::to_string(rank / 2);
  each.boot = each.host;
  each.pid = 10 + rank;
  each.version = "1.0";
  each.commit = "abc";
  each.token = "secret";
  return each;
}

TEST(MeetingFile, IsForThisUserAlone) {
  const TempFolder folder;
  const std::string file = folder.path("meeting");
  EXPECT_FALSE(read_meeting_file(file));
  write_meeting_file(file, {.addresses = {"10.0.0.1", "a"}, .port = 80, .token = "t", .boot = "b"});
  struct stat state {};
  ASSERT_EQ(stat(file.c_str(), &state), 0);
  EXPECT_EQ(state.st_mode & 0777, 0600u);
  const std::optional<MeetingPoint> point = read_meeting_file(file);
  ASSERT_TRUE(point);
  EXPECT_THAT(point->addresses, testing::ElementsAre("10.0.0.1", "a"));
  EXPECT_EQ(point->port, 80);
  EXPECT_EQ(point->token, "t");
  EXPECT_EQ(point->boot, "b");
}

TEST(MeetingFile, TextThatIsNoneIsNotRead) {
  const TempFolder folder;
  for (const char* text : {"", "{", "[]", "{}", R"({"addresses":1,"port":2,"token":"x","boot":""})"})
    EXPECT_FALSE(read_meeting_file(folder.write("file", text))) << text;
}

TEST(MeetingFile, AFolderThatCannotBeWrittenIsNamed) {
  try {
    write_meeting_file("/no/such/folder/x", {});
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("/no/such/folder/x"), HasSubstr("--rendezvous")));
  }
}

TEST(Member, SurvivesItsText) {
  const Member back = parse_member(to_text(member(3)));
  EXPECT_EQ(name_of(back), "rank 3 (host node1, pid 13)");
  EXPECT_EQ(to_text(back), to_text(member(3)));
  EXPECT_EQ(parse_members(to_text(std::vector{member(0), member(1)})).size(), 2u);
}

TEST(Member, TextOfAStrangerIsAnError) {
  for (const char* text : {"", "GET /", "[]", "{}", R"({"rank":"x"})"})
    EXPECT_FALSE(message_of([&] { parse_member(text); }).empty()) << text;
}

TEST(Member, WhatDoesNotSuitIsNamed) {
  EXPECT_EQ(mismatch(member(0), member(1)), "");
  Member other = member(2);
  other.commit = "def";
  EXPECT_THAT(mismatch(member(0), other),
              AllOf(HasSubstr("rank 0 (host node0, pid 10) is perceiver 1.0 of commit abc"),
                    HasSubstr("rank 2 (host node1, pid 12) is perceiver 1.0 of commit def")));
  other = member(2);
  other.size = 8;
  EXPECT_THAT(mismatch(member(0), other), AllOf(HasSubstr("one of 4 ranks"), HasSubstr("one of 8")));
  other.size = 4;
  for (const int rank : {-1, 4, 0}) {
    other.rank = rank;
    EXPECT_NE(mismatch(member(0), other), "") << rank;
  }
}

TEST(PlaceOnHosts, CountsTheRanksOfEachHost) {
  std::vector<Member> all{member(0), member(2), member(1), member(3)};
  for (int i = 0; i < 4; ++i) all[i].rank = i;
  place_on_hosts(all);
  const auto places = [&](int Member::*field) {
    std::vector<int> values;
    for (const Member& each : all) values.push_back(each.*field);
    return values;
  };
  EXPECT_THAT(places(&Member::local_rank), testing::ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(places(&Member::local_size), testing::Each(2));
  all[2].local_rank = 5;  // what the launcher says stays
  all[2].local_size = 8;
  place_on_hosts(all);
  EXPECT_EQ(all[2].local_rank, 5);
  EXPECT_EQ(all[2].local_size, 8);
}

}  // namespace
}  // namespace perceiver
