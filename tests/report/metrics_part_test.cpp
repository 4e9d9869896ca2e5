#include "report/metrics_part.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

constexpr uint64_t kAll = 1 << 20;

class MetricsPartTest : public ::testing::Test {
 protected:
  void add(const std::string& text) { std::ofstream(path_, std::ios::binary | std::ios::app) << text; }
  void replace(const std::string& text) { std::ofstream(path_, std::ios::binary) << text; }
  static std::string line(int step) {
    return "{\"step\":" + std::to_string(step) + ",\"loss\":" + std::to_string(10 - step) + "}\n";
  }

  const TempFolder temp_;
  const std::filesystem::path path_ = temp_.path("metrics.jsonl");
};

TEST_F(MetricsPartTest, GoesOnWhereTheOneBeforeEnded) {
  add(line(1) + "{\"step\":1,\"validation_loss\":3}\n{\"step\":2,\"lo");
  const MetricsPart first = read_metrics(path_, "", kAll);
  EXPECT_FALSE(first.continues);
  EXPECT_EQ(first.entries.size(), 1u);
  EXPECT_EQ(first.validations.size(), 1u);
  EXPECT_EQ(first.step, 1);
  const MetricsPart nothing = read_metrics(path_, first.mark, kAll);
  EXPECT_TRUE(nothing.continues && nothing.entries.empty() && !nothing.more);
  EXPECT_EQ(nothing.mark, first.mark);
  add("ss\":8}\n");
  const MetricsPart second = read_metrics(path_, first.mark, kAll);
  EXPECT_TRUE(second.continues);
  ASSERT_EQ(second.entries.size(), 1u);
  EXPECT_EQ(second.entries[0]["loss"], 8);
}

TEST_F(MetricsPartTest, BeginsAgainWithAFileThatWasReplaced) {
  add(line(1) + line(2) + line(3));
  const std::string mark = read_metrics(path_, "", kAll).mark;
  replace(line(1) + line(2));  // resumed from step 2
  EXPECT_FALSE(read_metrics(path_, mark, kAll).continues) << "shorter";
  add(line(4) + line(5));
  const MetricsPart part = read_metrics(path_, mark, kAll);
  EXPECT_FALSE(part.continues) << "longer, with another third line";
  EXPECT_EQ(part.entries.size(), 4u);
  for (const char* other : {"x", "99999999999999999999-0", "-1-0", "5-0000000000000000", "5"})
    EXPECT_FALSE(read_metrics(path_, other, kAll).continues) << other;
}

TEST_F(MetricsPartTest, ComesInPartsOfWholeLines) {
  for (int step = 1; step <= 9; ++step) add(line(step));
  std::string mark;
  std::vector<int64_t> steps;
  for (bool more = true; more;) {
    const MetricsPart part = read_metrics(path_, mark, 70);
    for (const auto& each : part.entries) steps.push_back(each["step"]);
    mark = part.mark;
    more = part.more;
    ASSERT_LE(steps.size(), 9u);
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST_F(MetricsPartTest, PassesOverWhatIsNoEntry) {
  add("\n{\"loss\":1}\nnonsense\n[1]\n" + std::string(300, 'x') + "\n" + line(1));
  EXPECT_EQ(read_metrics(path_, "", kAll).entries.size(), 1u);
  std::string mark;
  size_t found = 0;
  for (bool more = true; more;) {  // in parts shorter than one of its lines
    const MetricsPart part = read_metrics(path_, mark, 100);
    found += part.entries.size();
    mark = part.mark;
    more = part.more;
  }
  EXPECT_EQ(found, 1u);
  replace("{\"step\":1,\"loss\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}\n");
  for (const auto& each : read_metrics(path_, "", kAll).entries) EXPECT_LT(each.dump().size(), 200u);
  EXPECT_EQ(read_metrics(temp_.path("missing"), "", kAll).mark, "");
}

}  // namespace
}  // namespace perceiver
