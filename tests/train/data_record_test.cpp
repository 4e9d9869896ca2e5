#include "train/data_record.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "io/checksum.h"
#include "tests/support/data_paths.h"
#include "tests/support/fake_dataset.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

DataRecord record(uint64_t fingerprint, int64_t documents, int64_t tokens) {
  DataRecord data{.fingerprint = fingerprint, .splits = {}};
  data.splits[0] = {documents, tokens};
  return data;
}

TEST(DataRecord, CountsEverySplit) {
  const DataRecord data = record_of(FakeDataset({10, 20, 5}));
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    EXPECT_EQ(data.of(split).documents, 3);
    EXPECT_EQ(data.of(split).tokens, 35);
  }
  EXPECT_FALSE(data.empty());
  EXPECT_TRUE(record_of(*open_dataset(tiny_config().data)).empty());  // generated
}

TEST(DataRecord, ComparesFingerprintsWhereBothAreKnown) {
  EXPECT_TRUE(same_data(record(7, 1, 100), record(7, 1, 100)));
  EXPECT_FALSE(same_data(record(7, 1, 100), record(8, 1, 100)));
  EXPECT_TRUE(same_data(record(0, 1, 100), record(8, 1, 100)));
  EXPECT_FALSE(same_data(record(0, 1, 100), record(8, 1, 101)));
}

TEST(DataRecord, NamesTheDifference) {
  EXPECT_EQ(describe_difference(record(7, 1, 100), record(8, 2, 150)),
            "train: 2 documents of 150 tokens instead of 1 document of 100 tokens");
  EXPECT_EQ(describe_difference(record(7, 1, 100), record(8, 0, 0)),
            "train: no documents instead of 1 document of 100 tokens");
  EXPECT_EQ(describe_difference(record(7, 1, 100), record(8, 1, 100)),
            "as many documents and tokens as before, but other content");
}

/// A run on a text file, stopped after two steps.
class ChangedData : public testing::Test {
 protected:
  ChangedData() {
    config_.data = paths({write(500, 'a')}, 0.2);
    train(config_, run());
    config_.train.steps = 4;
  }
  std::string run() const { return folder_.path("run"); }
  std::string write(size_t bytes, char content) const {
    return folder_.write("text.txt", std::string(bytes, content));
  }
  TrainResult resume(bool accept, Recorder* recorder = nullptr) const {
    TrainerOptions options = run_options(run(), true, recorder);
    options.accept_new_data = accept;
    return Trainer(config_, options).run();
  }

  TempFolder folder_;
  Config config_ = tiny_config(2);
};

TEST_F(ChangedData, UnchangedItGoesOnWithoutAWord) {
  Recorder recorder;
  EXPECT_EQ(resume(false, &recorder).step, 4);
  EXPECT_FALSE(recorder.told("data has changed"));
  EXPECT_EQ(read_checkpoint_state(checkpoint_path(run(), 4)).data, record_of(*open_dataset(config_.data)));
}

TEST_F(ChangedData, IsRefusedByName) {
  write(600, 'a');
  const std::string message = error_of(ErrorKind::user, [&] { resume(false); });
  EXPECT_THAT(message, HasSubstr("text.txt: the data has changed since step 2"));
  EXPECT_THAT(message, HasSubstr("train: 1 document of 482 tokens instead of 1 document of 402 tokens"));
  EXPECT_THAT(message, HasSubstr("--accept-new-data"));
  EXPECT_EQ(checkpoint_steps(run()), std::vector<int64_t>{2});
}

TEST_F(ChangedData, IsNoticedAtTheSameSize) {
  if (open_dataset(config_.data)->fingerprint() == 0) GTEST_SKIP() << "texts have no fingerprint";
  write(500, 'b');
  EXPECT_THAT(error_of(ErrorKind::user, [&] { resume(false); }), HasSubstr("but other content"));
}

TEST_F(ChangedData, CanBeAccepted) {
  write(600, 'a');
  Recorder recorder;
  EXPECT_EQ(resume(true, &recorder).step, 4);
  EXPECT_TRUE(recorder.told("the data has changed since step 2"));
  config_.train.steps = 6;
  Recorder later;
  EXPECT_EQ(resume(false, &later).step, 6);  // it is the run's data now
  EXPECT_FALSE(later.told("data has changed"));
}

TEST_F(ChangedData, MayLieElsewhereIfAccepted) {
  config_.data.train = {folder_.write("copy.txt", std::string(500, 'a'))};
  const bool known = open_dataset(config_.data)->fingerprint() != 0;
  if (!known) {
    EXPECT_THAT(error_of(ErrorKind::user, [&] { resume(false); }), HasSubstr("data.train"));
  }
  EXPECT_EQ(resume(!known).step, 4);
}

TEST_F(ChangedData, OlderCheckpointsAreNotCompared) {
  const std::string path = checkpoint_path(run(), 2) + "/state.json";
  nlohmann::json state = nlohmann::json::parse(file_bytes(path));
  state.erase("data");
  state.erase("checksum");
  const std::string text = state.dump();
  state["checksum"] = hexadecimal(checksum_of(std::as_bytes(std::span(text.data(), text.size()))));
  std::ofstream(path) << state.dump();
  write(600, 'a');
  Recorder recorder;
  EXPECT_EQ(resume(false, &recorder).step, 4);
  EXPECT_TRUE(recorder.told("whether it has changed is unknown"));
}

}  // namespace
}  // namespace perceiver
