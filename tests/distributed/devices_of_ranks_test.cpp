#include "distributed/devices_of_ranks.h"

#include <gmock/gmock.h>

#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::vector<Member> members(size_t count) {
  std::vector<Member> all(count);
  for (size_t rank = 0; rank < count; ++rank) {
    all[rank].rank = static_cast<int>(rank);
    all[rank].host = "node";
  }
  return all;
}

RankDevice gpu(std::string uuid, std::string obstacle = "") {
  return {.gpu = true, .name = "H100", .uuid = std::move(uuid), .nccl_obstacle = std::move(obstacle)};
}

Transport choose(const std::vector<RankDevice>& devices, bool mpi) {
  return choose_transport(members(devices.size()), devices, mpi);
}

TEST(Transport, GpusOfTheirOwnTakeNccl) {
  EXPECT_EQ(choose({gpu("a"), gpu("b"), gpu("c")}, false), Transport::nccl);
  EXPECT_EQ(choose({gpu("a"), gpu("b")}, true), Transport::nccl);
}

TEST(Transport, MpiConnectsWhatNcclDoesNot) {
  EXPECT_EQ(choose({gpu("a"), gpu("a")}, true), Transport::mpi);
  EXPECT_EQ(choose({gpu("a"), gpu("b", "it is not installed")}, true), Transport::mpi);
  EXPECT_EQ(choose({{}, {}}, true), Transport::mpi);
}

TEST(Transport, SaysWhyNothingConnectsTheRanks) {
  EXPECT_THAT(message_of([] { choose({{}, {}}, false); }), HasSubstr("mpirun -n 2"));
  EXPECT_THAT(message_of([] {
                choose({gpu("a"), gpu("b"), gpu("a")}, false);
              }),
              AllOf(HasSubstr("rank 0 (host node"), HasSubstr("rank 2 (host node"), HasSubstr("H100 (a)"),
                    HasSubstr("--gpus N")));
  EXPECT_THAT(message_of([] {
                choose({gpu("a"), gpu("b", "it is not installed")}, false);
              }),
              AllOf(HasSubstr("rank 1 (host node"), HasSubstr("it is not installed")));
  EXPECT_THAT(message_of([] {
                choose({gpu("a"), {}}, true);
              }),
              AllOf(HasSubstr("rank 0 (host node, pid 0) computes on a GPU"), HasSubstr("on the CPU")));
}

TEST(RankDevice, SurvivesItsText) {
  const RankDevice back = parse_rank_device(to_text(gpu("GPU-1", "why not")));
  EXPECT_TRUE(back.gpu);
  EXPECT_EQ(back.name, "H100");
  EXPECT_EQ(back.uuid, "GPU-1");
  EXPECT_EQ(back.nccl_obstacle, "why not");
  EXPECT_FALSE(parse_rank_device(to_text(RankDevice{})).gpu);
}

TEST(SharedMemory, IsWarnedAboutWhereProcessesMeetInIt) {
  EXPECT_EQ(shared_memory_warning(1, 0), "");
  EXPECT_EQ(shared_memory_warning(8, uint64_t{1} << 30), "");
  EXPECT_THAT(shared_memory_warning(8, 63 << 20), AllOf(HasSubstr("63 MiB"), HasSubstr("--shm-size=1g")));
}

}  // namespace
}  // namespace perceiver
