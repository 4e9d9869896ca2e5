// metrics.jsonl.
#include "train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "perceiver/error.h"
#include "tests/support/log_entries.h"
#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

using testing::eval_entry;
using testing::log_entry;

TEST(Metrics, OneCompleteObjectPerLine) {
  const TempFolder folder;
  {
    MetricsFile file(folder.path("metrics.jsonl"));
    LogEntry log = log_entry(10);
    log.memory_bytes = 4096;
    file.add(log);
    EvalEntry eval = eval_entry(10);
    eval.by_position = {{0, 500, 2.5}, {512, 100, 1.5}};
    file.add(eval);
  }
  MetricsFile(folder.path("metrics.jsonl")).add(log_entry(20));
  std::istringstream input(read_file(folder.path("metrics.jsonl"), 1 << 20));
  std::vector<nlohmann::json> entries;
  for (std::string line; std::getline(input, line);) entries.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0], (nlohmann::json{{"step", 10},
                                        {"loss", 1.25},
                                        {"bits", 1.25 / std::log(2)},
                                        {"objective", 1.5},
                                        {"z_loss", 0.125},
                                        {"accuracy", 0.75},
                                        {"gradient_norm", 2.0},
                                        {"learning_rate", 3e-4},
                                        {"targets_per_second", 12345.0},
                                        {"inputs_per_second", 99999.0},
                                        {"elapsed", 60.0},
                                        {"skipped", 0},
                                        {"clipped", 0.25},
                                        {"memory_bytes", 4096}}));
  EXPECT_EQ(entries[1], (nlohmann::json{{"step", 10},
                                        {"validation_loss", 2.0},
                                        {"validation_bits", 2 / std::log(2)},
                                        {"validation_seconds", 0.5},
                                        {"elapsed", 60.5},
                                        {"validation_bits_per_byte", 2.75},
                                        {"by_position", {{0, 500, 2.5}, {512, 100, 1.5}}}}));
  EXPECT_EQ(entries[2].at("step"), 20);
}

TEST(Metrics, NumbersThatAreNotFiniteAreNull) {
  LogEntry entry = log_entry(1);
  entry.loss = std::numeric_limits<double>::quiet_NaN();
  entry.gradient_norm = std::numeric_limits<double>::infinity();
  const nlohmann::json line = nlohmann::json::parse(metrics_line(entry));
  EXPECT_TRUE(line.at("loss").is_null());
  EXPECT_TRUE(line.at("gradient_norm").is_null());
}

TEST(Metrics, DropsEntriesOfIntervalsThatWereCutShort) {
  const TempFolder folder;
  LogEntry cut = log_entry(15);
  cut.partial = true;
  const std::string rest = metrics_line(log_entry(10)) + "\n" + metrics_line(eval_entry(15)) + "\n";
  const std::string path = folder.write("metrics.jsonl", rest + metrics_line(cut) + "\n");
  drop_metrics_after(path, 15);
  EXPECT_EQ(read_file(path, 1 << 20), rest);
}

TEST(Metrics, WhatCannotBeReadIsNotReplaced) {
  const TempFolder folder;
  std::filesystem::create_directory(folder.path("metrics.jsonl"));
  EXPECT_THROW(drop_metrics_after(folder.path("metrics.jsonl"), 5), Error);
  EXPECT_TRUE(std::filesystem::is_directory(folder.path("metrics.jsonl")));
}

TEST(Metrics, DropsLaterAndUnfinishedLines) {
  const TempFolder folder;
  const std::string first = metrics_line(log_entry(10)) + "\n", second = metrics_line(eval_entry(20)) + "\n";
  const std::string path =
      folder.write("metrics.jsonl", first + second + metrics_line(log_entry(30)) + "\n[1]\n{\"stop\": 1}\n" +
                                        std::string(200'000, '[') + "\n{\"step\": 4");
  drop_metrics_after(path, 20);
  EXPECT_EQ(read_file(path, 1 << 20), first + second);
  drop_metrics_after(path, 10);
  EXPECT_EQ(read_file(path, 1 << 20), first);
  drop_metrics_after(path, -1);
  EXPECT_EQ(read_file(path, 1 << 20), "");
  drop_metrics_after(folder.path("none"), 5);
  EXPECT_FALSE(std::filesystem::exists(folder.path("none")));
}

}  // namespace
}  // namespace perceiver
