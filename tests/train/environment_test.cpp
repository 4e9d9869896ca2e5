#include "train/environment.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "base/cpu_variant.h"
#include "perceiver/version.h"
#include "tests/support/fake_dataset.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

TEST(Environment, EveryStartAndContinuationLeavesALine) {
  const TempFolder folder;
  const std::string run = folder.path("run");
  TrainerOptions options = run_options(run);
  options.command = {"perceiver", "train", "my\xff config.yaml"};
  Trainer(tiny_config(2), options).run();
  train(tiny_config(5), run, true);
  const auto stamps = read_environment(run);
  ASSERT_EQ(stamps.size(), 2u);
  EXPECT_EQ(stamps[0]["step"], 0);
  EXPECT_EQ(stamps[1]["step"], 2);
  EXPECT_EQ(stamps[0]["command"],
            (nlohmann::ordered_json{"perceiver", "train", "my\xEF\xBF\xBD config.yaml"}));
  EXPECT_EQ(stamps[0]["device"], "cpu");
  EXPECT_EQ(stamps[0]["threads"], 1);
  EXPECT_EQ(stamps[0]["precision"], "f32");
  EXPECT_EQ(stamps[0]["seed"], 7);
  EXPECT_EQ(stamps[0]["version"], version());
  EXPECT_EQ(stamps[0]["folder"], fs::current_path().string());
  EXPECT_THAT(stamps[0]["started"].get<std::string>(),
              testing::MatchesRegex("20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"));
  for (const char* key : {"commit", "compiler", "host", "system", "kernel", "processor"})
    EXPECT_FALSE(stamps[0][key].get<std::string>().empty()) << key;
  EXPECT_EQ(stamps[0]["cpu_kernels"], name_of(cpu_variant()));
  EXPECT_FALSE(stamps[0].contains("driver"));
}

TEST(Environment, ARunFolderWithoutItHasNone) {
  const TempFolder folder;
  EXPECT_TRUE(read_environment(folder.path()).empty());
}

/// Data of which two files were skipped and one repaired.
class Remarked : public FakeDataset {
 public:
  using FakeDataset::FakeDataset;
  std::vector<FileRemark> skipped() const override {
    return {{"a.txt", "is not UTF-8"}, {"b\xff", "is a PDF"}};
  }
  std::vector<FileRemark> repaired() const override { return {{"c.mid", "ends early"}}; }
};

TEST(Environment, SkippedAndRepairedFilesAreListedOnce) {
  const TempFolder folder;
  const RunFolder run(folder.path("run"));
  for (int i = 0; i < 2; ++i) write_file_remarks(run, Remarked({4}));
  EXPECT_EQ(file_bytes(run.skipped_files()),
            "{\"path\":\"a.txt\",\"reason\":\"is not UTF-8\"}\n"
            "{\"path\":\"b\xEF\xBF\xBD\",\"reason\":\"is a PDF\"}\n");
  EXPECT_EQ(file_bytes(run.repaired_files()), "{\"path\":\"c.mid\",\"repair\":\"ends early\"}\n");
  write_file_remarks(run, FakeDataset({4}));
  EXPECT_FALSE(fs::exists(run.skipped_files()));
  EXPECT_FALSE(fs::exists(run.repaired_files()));
}

}  // namespace
}  // namespace perceiver
