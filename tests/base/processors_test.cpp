#include "base/processors.h"

#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

class ControlGroups : public ::testing::Test {
 protected:
  void write(const std::string& file, const std::string& content) {
    const fs::path path = fs::path(root()) / file;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << content;
  }
  std::string root() const { return folder_.path(); }

 private:
  TempFolder folder_;
};

TEST_F(ControlGroups, NoQuotaIsNoLimit) {
  EXPECT_TRUE(std::isinf(cgroup_processors(root(), "0::/\n")));
  write("cpu.max", "max 100000\n");
  EXPECT_TRUE(std::isinf(cgroup_processors(root(), "0::/\n")));
  EXPECT_TRUE(std::isinf(cgroup_processors(root(), "")));
  EXPECT_TRUE(std::isinf(cgroup_processors(root(), "not a line\n1:x\n")));
}

TEST_F(ControlGroups, TheSmallestQuotaOnThePathCounts) {
  write("cpu.max", "800000 100000\n");
  write("a/cpu.max", "150000 100000\n");
  write("a/b/cpu.max", "max 100000\n");
  EXPECT_DOUBLE_EQ(cgroup_processors(root(), "0::/a/b\n"), 1.5);
  EXPECT_DOUBLE_EQ(cgroup_processors(root(), "0::/\n"), 8);
  // In a container the path may be the host's.
  EXPECT_DOUBLE_EQ(cgroup_processors(root(), "0::/docker/0123\n"), 8);
}

TEST_F(ControlGroups, Version1HasTwoFiles) {
  write("cpu,cpuacct/box/cpu.cfs_quota_us", "50000\n");
  write("cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  write("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  write("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  const std::string groups = "5:memory:/other\n4:cpu,cpuacct:/box\n0::/\n";
  EXPECT_DOUBLE_EQ(cgroup_processors(root(), groups), 0.5);
  EXPECT_TRUE(std::isinf(cgroup_processors(root(), "4:cpuset:/box\n")));
}

TEST(AvailableProcessors, IsAtLeastOne) {
  EXPECT_GE(available_processors(), 1);
}

}  // namespace
}  // namespace perceiver
