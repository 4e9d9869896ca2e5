// A run that finds a damaged checkpoint falls back to the one before; one that it cannot read stays where it
// is.
#include <gmock/gmock.h>

#include "base/check.h"
#include "io/safetensors.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

/// A run of 5 steps with a checkpoint at each, and the same made from the checkpoint of step 3 on after
/// `damage` to that of step 5 (and 4).
class Damage : public testing::Test {
 protected:
  Damage() {
    config_ = tiny_config(5);
    config_.train.ema_decay = 0.9;
    config_.checkpoint.every = 1;
    config_.checkpoint.keep = 10;
    train(config_, run());
    before_ = checkpoint_bytes(run(), 5);
    metrics_ = timeless_metrics(run());
  }

  std::string run() const { return folder_.path("run"); }
  std::string file(int64_t step, const char* name) const { return checkpoint_path(run(), step) + "/" + name; }

  void overwrite(const std::string& path, size_t offset, char mask) const {
    std::string bytes = file_bytes(path);
    bytes.at(offset) = static_cast<char>(bytes.at(offset) ^ mask);
    std::ofstream(path, std::ios::binary) << bytes;
  }

  /// Resumes; the run must fall back to step `from`, say so in one line, and end as it did before.
  void expect_fallback(int64_t from, const std::string& reason) {
    Recorder recorder;
    const TrainResult result = train(config_, run(), true, &recorder);
    EXPECT_EQ(result.step, 5);
    EXPECT_EQ(recorder.logs.size(), static_cast<size_t>(5 - from));
    EXPECT_TRUE(recorder.told("resuming " + checkpoint_path(run(), from)));
    EXPECT_TRUE(recorder.told(reason)) << testing::PrintToString(recorder.messages);
    ASSERT_FALSE(recorder.warnings.empty());
    EXPECT_THAT(recorder.warnings[0], HasSubstr("the checkpoint of step 5 is damaged"));
    for (const std::string& message : recorder.messages) EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_EQ(checkpoint_bytes(run(), 5), before_);
    EXPECT_EQ(timeless_metrics(run()), metrics_);
    EXPECT_TRUE(fs::exists(run() + "/checkpoints/damaged-step-000000005"));
  }

  TempFolder folder_;
  Config config_;
  std::vector<std::string> before_;
  std::vector<nlohmann::json> metrics_;
};

TEST_F(Damage, AFlippedBitInTheWeights) {
  overwrite(file(5, model_file_name), fs::file_size(file(5, model_file_name)) - 100, 1);
  expect_fallback(4, "its checksum differs from that in state.json");
}

TEST_F(Damage, AFlippedBitInTheMovingAverage) {
  overwrite(file(5, average_file_name), 5000, 64);
  expect_fallback(4, "ema.safetensors: its checksum");
}

TEST_F(Damage, ACutOptimizerFile) {
  fs::resize_file(file(5, optimizer_file_name), 1000);
  expect_fallback(4, "has 1000 bytes instead of");
}

TEST_F(Damage, AMissingFile) {
  fs::remove(file(5, model_file_name));
  expect_fallback(4, "No such file");
}

TEST_F(Damage, AnEditedState) {
  std::string text = file_bytes(file(5, state_file_name));
  const size_t at = text.find("\"updates\": 5");
  ASSERT_NE(at, std::string::npos);
  text[at + 11] = '4';
  std::ofstream(file(5, state_file_name)) << text;
  expect_fallback(4, "its checksum does not match its content");
}

TEST_F(Damage, AnEmptyStateAndTheOneBeforeCut) {
  fs::resize_file(file(5, state_file_name), 0);
  fs::resize_file(file(4, state_file_name), 50);
  expect_fallback(3, "not the state of a checkpoint");
}

TEST_F(Damage, AStateOfNothingButBrackets) {
  std::ofstream(file(5, state_file_name)) << std::string(200'000, '[');
  EXPECT_THAT(error_of(ErrorKind::user, [&] { read_checkpoint_state(checkpoint_path(run(), 5)); }),
              HasSubstr("nested more than"));
  expect_fallback(4, "nested more than");
}

/// Resuming fails with `message`, and every checkpoint stays where it is.
class Unreadable : public Damage {
 protected:
  void expect_refusal(ErrorKind kind, const std::string& message) {
    EXPECT_THAT(error_of(kind, [&] { train(config_, run(), true); }), HasSubstr(message));
    EXPECT_THAT(checkpoint_steps(run()), ElementsAre(1, 2, 3, 4, 5));
    EXPECT_FALSE(fs::exists(run() + "/checkpoints/damaged-step-000000005"));
    EXPECT_EQ(timeless_metrics(run()), metrics_);
  }
};

TEST_F(Unreadable, AFileOutOfReachIsNoDamage) {
  const fs::path path = file(5, model_file_name);
  fs::rename(path, path.string() + ".kept");
  fs::create_symlink(path.filename(), path);  // stands for any error that is not the file's own
  expect_refusal(ErrorKind::failure, "Too many levels of symbolic links");
  fs::rename(path.string() + ".kept", path);
  EXPECT_EQ(train(config_, run(), true).step, 5);
}

TEST_F(Unreadable, AStateOutOfReachIsNoDamage) {
  const fs::path path = file(5, state_file_name);
  fs::remove(path);
  fs::create_symlink(path.filename(), path);
  expect_refusal(ErrorKind::failure, "Too many levels of symbolic links");
}

TEST_F(Unreadable, ANewerFormatIsNoDamage) {
  std::string text = file_bytes(file(5, state_file_name));
  const std::string version = "\"format_version\": 1";
  text.replace(text.find(version), version.size(), "\"format_version\": 2");
  std::ofstream(file(5, state_file_name)) << text;
  expect_refusal(ErrorKind::user, "format version 2 of a newer program");
}

TEST_F(Unreadable, ARenamedFolderIsNoDamage) {
  fs::rename(checkpoint_path(run(), 5), checkpoint_path(run(), 6));
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(config_, run(), true); }),
              HasSubstr("its state is that of step 5"));
  EXPECT_THAT(checkpoint_steps(run()), ElementsAre(1, 2, 3, 4, 6));
}

TEST_F(Damage, OfEveryCheckpointIsAnError) {
  for (int64_t step = 1; step <= 5; ++step) fs::resize_file(file(step, model_file_name), 0);
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(config_, run(), true); }),
              HasSubstr("no usable checkpoint (5 damaged"));
  EXPECT_THAT(checkpoint_steps(run()), ElementsAre(1, 2, 3, 4, 5));
}

}  // namespace
}  // namespace perceiver
