#include "report/run_record.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <fstream>

#include "io/file_descriptor.h"
#include "report/report_page.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// A run of 20 steps, of which 10 are done.
void write_run(const fs::path& folder) {
  write(folder / "config.yaml", "train:\n  steps: 20\ndata:\n  type: copy\n");
  write(folder / "metrics.jsonl",
        "{\"step\":5,\"loss\":3.5,\"elapsed\":1}\n"
        "{\"step\":5,\"validation_loss\":3.4,\"validation_bits_per_byte\":4.9}\n"
        "{\"step\":10,\"loss\":3.0,\"elapsed\":2}\n"
        "{\"step\":10,\"validation_loss\":3.6}\n"
        "{\"step\":15,\"lo");  // still being written
  write(folder / "environment.jsonl", "{\"step\":0,\"commit\":\"abc\"}\n");
  write(folder / "samples" / "step-000000010.txt", "</script><script>alert(1)</script><!-- \xff");
  write(folder / "samples" / "notes.txt", "of the user");
  fs::create_directories(folder / "checkpoints" / "step-000000010");
  fs::create_symlink("step-000000010", folder / "checkpoints" / "best");
}

TEST(RunRecord, HoldsWhatTheFilesSay) {
  const TempFolder temp;
  const fs::path folder = fs::path(temp.path()) / "small";
  write_run(folder);
  const RunRecord run = read_run(folder);
  EXPECT_EQ(run.name, "small");
  EXPECT_EQ(run.state, RunState::stopped);
  EXPECT_EQ(run.step, 10);
  ASSERT_TRUE(run.config);
  EXPECT_EQ(run.config->train.steps, 20);
  EXPECT_EQ(run.entries.size(), 2u);
  EXPECT_EQ(run.validations.size(), 2u);
  ASSERT_NE(run.best_validation(), nullptr);
  EXPECT_EQ((*run.best_validation())["step"], 5);
  EXPECT_EQ(run.environments.size(), 1u);
  EXPECT_EQ(run.checkpoints, std::vector<int64_t>{10});
  EXPECT_EQ(run.best_checkpoint, 10);
  ASSERT_EQ(run.samples.size(), 1u);
  EXPECT_EQ(run.samples[0].step, 10);
}

TEST(RunRecord, KnowsWhetherTheRunGoesOn) {
  const TempFolder temp;
  write_run(temp.path());
  const FileDescriptor lock(::open(temp.path().c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(read_run(temp.path()).state, RunState::running);
  ::flock(lock.get(), LOCK_UN);
  EXPECT_EQ(read_run(temp.path()).state, RunState::stopped);
  write(fs::path(temp.path()) / "metrics.jsonl", "{\"step\":20,\"loss\":3.5}\n");
  EXPECT_EQ(read_run(temp.path()).state, RunState::finished);
}

TEST(RunRecord, ARunByTheClockIsFinishedWhenItsTimeIsOver) {
  const TempFolder temp;
  write_run(temp.path());
  write(fs::path(temp.path()) / "config.yaml", "schedule: {type: cosine, until: 1m}\ntrain: {steps: 20}\n");
  const auto state_after = [&](const std::string& elapsed) {
    write(fs::path(temp.path()) / "metrics.jsonl",
          "{\"step\":30,\"loss\":3.5,\"elapsed\":" + elapsed + "}\n");
    return read_run(temp.path()).state;
  };
  EXPECT_EQ(state_after("50.0"), RunState::stopped);
  EXPECT_EQ(state_after("60.1"), RunState::finished);
  // The time may also end during a validation.
  EXPECT_EQ(state_after("50.0}\n{\"step\":30,\"validation_loss\":3.0,\"elapsed\":60.1"), RunState::finished);
}

TEST(RunRecord, ShowsARunWhoseConfigurationItDoesNotUnderstand) {
  const TempFolder temp;
  write_run(temp.path());
  write(fs::path(temp.path()) / "config.yaml", "model:\n  future: 1\n");
  const RunRecord run = read_run(temp.path());
  EXPECT_FALSE(run.config);
  EXPECT_NE(run.config_error.find("future"), std::string::npos);
  EXPECT_EQ(run.entries.size(), 2u);
}

TEST(RunRecord, FindsRunsBelowAFolder) {
  const TempFolder temp;
  write_run(fs::path(temp.path()) / "b" / "two");
  write_run(fs::path(temp.path()) / "a");
  write(fs::path(temp.path()) / "notes" / "readme.txt", "no run");
  EXPECT_EQ(find_runs(temp.path()),
            (std::vector<fs::path>{fs::path(temp.path()) / "a", fs::path(temp.path()) / "b" / "two"}));
  EXPECT_EQ(find_runs(fs::path(temp.path()) / "a"), std::vector<fs::path>{fs::path(temp.path()) / "a"});
}

TEST(RunRecord, RefusesOtherFolders) {
  const TempFolder temp;
  EXPECT_THAT(message_of([&] { read_run(temp.path()); }), HasSubstr("no run folder"));
  EXPECT_THAT(message_of([&] { read_run(temp.path("missing")); }), HasSubstr("no such run folder"));
  EXPECT_THAT(message_of([&] { find_runs(temp.path("missing")); }), HasSubstr("no such folder"));
}

TEST(ReportPage, TextOfARunCannotBreakOutOfIt) {
  const TempFolder temp;
  write_run(temp.path());
  const std::string page = report_page({read_run(temp.path())});
  EXPECT_EQ(page.find("alert(1)</script>"), std::string::npos);
  EXPECT_NE(page.find("\\u003c/script>\\u003cscript>alert(1)"), std::string::npos);
  EXPECT_EQ(page.find("/*DATA*/"), std::string::npos);
  EXPECT_EQ(page.find("http://"), page.find("http://www.w3.org/2000/svg")) << "nothing is loaded";
  EXPECT_EQ(page.find("https://"), std::string::npos);
}

TEST(ReportPage, HoldsSamplesByKind) {
  const TempFolder temp;
  write_run(temp.path());
  write(fs::path(temp.path()) / "samples" / "step-000000011.png", "picture");
  write(fs::path(temp.path()) / "samples" / "step-000000012.wav", std::string((8 << 20) + 1, 'x'));
  const nlohmann::ordered_json samples = report_data({read_run(temp.path())})["runs"][0]["samples"];
  ASSERT_EQ(samples.size(), 3u);
  EXPECT_EQ(samples[0]["kind"], "text");
  EXPECT_EQ(samples[1]["kind"], "image");
  EXPECT_EQ(samples[1]["base64"], "cGljdHVyZQ==");
  EXPECT_EQ(samples[2]["kind"], "other") << "too large to be carried";
}

}  // namespace
}  // namespace perceiver
