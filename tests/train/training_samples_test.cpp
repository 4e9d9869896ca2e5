#include "train/training_samples.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <atomic>

#include "base/text.h"
#include "tests/support/image_bytes.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

struct SampleRecorder : Recorder {
  void on_sample(const SampleEntry& entry) override {
    samples.push_back(entry);
    if (stop != nullptr) *stop = true;
  }
  std::vector<int64_t> steps() const {
    std::vector<int64_t> steps;
    for (const SampleEntry& sample : samples) steps.push_back(sample.step);
    return steps;
  }
  std::vector<SampleEntry> samples;
  std::atomic<bool>* stop = nullptr;
};

Config text_config(const TempFolder& folder) {
  Config config = tiny_config(6);
  config.data.type = "text";
  config.data.train = {folder.write("text.txt", std::string(300, 'a') + std::string(300, 'b'))};
  config.train.sample_every = 2;
  config.train.sample_tokens = 20;
  config.train.sample_prompt = "ab";
  return config;
}

std::string sample_path(const std::string& run, int64_t step, const std::string& ending = ".txt") {
  return fmt::format("{}/samples/step-{:09}{}", run, step, ending);
}

TEST(TrainingSamples, TextIsToldAndWritten) {
  const TempFolder folder;
  SampleRecorder recorder;
  train(text_config(folder), folder.path("run"), false, &recorder);
  EXPECT_THAT(recorder.steps(), ElementsAre(2, 4, 6));
  const SampleEntry& sample = recorder.samples[1];
  EXPECT_EQ(sample.path, sample_path(folder.path("run"), 4));
  EXPECT_EQ(file_bytes(sample.path), sample.text + "\n");
  EXPECT_THAT(sample.text, StartsWith("ab"));
  EXPECT_GT(sample.text.size(), 2u);
  EXPECT_TRUE(is_utf8(sample.text));
  EXPECT_NE(sample.text, recorder.samples[2].text);
}

TEST(TrainingSamples, DoNotAffectTheRun) {
  const TempFolder folder;
  for (const double decay : {0.0, 0.9}) {
    const std::string name = decay > 0 ? "averaged" : "plain";
    Config config = text_config(folder);
    config.model.context_dropout = 0.2;
    config.train.ema_decay = decay;
    config.train.sample_every = 0;
    train(config, folder.path(name));
    config.train.sample_every = 1;
    train(config, folder.path(name + "_sampled"));
    EXPECT_TRUE(checkpoint_numbers(folder.path(name), 6) ==
                checkpoint_numbers(folder.path(name + "_sampled"), 6));
    EXPECT_EQ(timeless_metrics(folder.path(name)), timeless_metrics(folder.path(name + "_sampled")));
  }
}

TEST(TrainingSamples, ShowTheMovingAverage) {
  const TempFolder folder;
  Config config = text_config(folder);
  config.train.ema_decay = 0.999;
  SampleRecorder averaged, plain;
  train(config, folder.path("averaged"), false, &averaged);
  config.train.ema_decay = 0;
  train(config, folder.path("plain"), false, &plain);
  EXPECT_NE(averaged.samples.back().text, plain.samples.back().text);
  Config frozen = text_config(folder);
  frozen.optimizer.learning_rate = 0;  // weights and average stay the same
  SampleRecorder a, b;
  train(frozen, folder.path("frozen"), false, &a);
  frozen.train.ema_decay = 0.9;
  train(frozen, folder.path("frozen_averaged"), false, &b);
  EXPECT_EQ(a.samples.back().text, b.samples.back().text);
}

TEST(TrainingSamples, AResumedRunMakesThoseThatAreMissing) {
  const TempFolder folder;
  Config config = text_config(folder);
  SampleRecorder whole, parts;
  train(config, folder.path("whole"), false, &whole);
  config.schedule.decay_steps = 20;
  config.train.steps = 4;
  train(config, folder.path("parts"), false, &parts);
  fs::remove(sample_path(folder.path("parts"), 4));  // as if the run had been stopped before it
  config.train.steps = 6;
  train(config, folder.path("parts"), true, &parts);
  EXPECT_THAT(parts.steps(), ElementsAre(2, 4, 4, 6));
  for (const int64_t step : {2, 4, 6})
    EXPECT_EQ(file_bytes(sample_path(folder.path("parts"), step)),
              file_bytes(sample_path(folder.path("whole"), step)));
  SampleRecorder again;
  train(config, folder.path("parts"), true, &again);
  EXPECT_TRUE(again.samples.empty());
}

TEST(TrainingSamples, StopBetweenTokens) {
  const TempFolder folder;
  const Config config = text_config(folder);
  const std::unique_ptr<Dataset> data = open_dataset(config.data);
  PerceiverAR model(config.model, DeviceContext::cpu(1), DType::f32);
  model.parameters().initialize(1);
  const TrainingSamples samples(config.train, *data, model, folder.path("samples"));
  int64_t asked = 0;
  EXPECT_FALSE(samples.make(3, [&] { return ++asked == 5; }).has_value());
  EXPECT_EQ(asked, 5);
  EXPECT_FALSE(samples.exists(3));
  EXPECT_TRUE(samples.make(3, [] { return false; }).has_value());
  EXPECT_TRUE(samples.exists(3));
}

TEST(TrainingSamples, AFileThatCannotBeWrittenEndsNoRun) {
  const TempFolder folder;
  folder.write("run/samples", "a file where the folder should be");
  Recorder recorder;
  const TrainResult result = train(text_config(folder), folder.path("run"), false, &recorder);
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_TRUE(recorder.told("no sample at step 2: cannot"));
}

TEST(TrainingSamples, APromptMayBeLongerThanTheContext) {
  const TempFolder folder;
  Config config = text_config(folder);
  config.train.sample_prompt = std::string(300, 'a');
  SampleRecorder recorder;
  train(config, folder.path("run"), false, &recorder);
  ASSERT_EQ(recorder.samples.size(), 3u);
  EXPECT_THAT(recorder.samples[0].text, StartsWith(config.train.sample_prompt));
}

/// 4 x 4 grey pixels.
std::string grey_png(uint8_t value) {
  return make_png(
      {.width = 4, .height = 4, .colour = PNG_COLOR_TYPE_GRAY, .rows = std::vector<uint8_t>(16, value)});
}

Config image_config(const TempFolder& folder) {
  Config config = tiny_config(2);
  config.data.type = "image";
  config.data.options = {{"size", "4"}, {"colour", "grey"}};
  config.data.train = {folder.write("images/a.png", grey_png(10)),
                       folder.write("images/b.png", grey_png(200))};
  config.data.validation_fraction = 0;
  config.model.position_encoding = PositionEncoding::absolute;
  config.model.position_sizes = {6, 6, 3};
  config.model.context_length = 17;
  config.model.latents = 17;
  config.train.sample_every = 1;
  return config;
}

TEST(TrainingSamples, ImagesAreWrittenWhole) {
  const TempFolder folder;
  SampleRecorder recorder;
  train(image_config(folder), folder.path("run"), false, &recorder);
  EXPECT_THAT(recorder.steps(), ElementsAre(1, 2));
  EXPECT_EQ(recorder.samples[0].text, "");
  EXPECT_THAT(file_bytes(sample_path(folder.path("run"), 2, ".png")), StartsWith("\x89PNG"));

  Config prompted = image_config(folder);
  prompted.train.sample_prompt = "a cat";
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(prompted, folder.path("prompted")); }),
              HasSubstr("train.sample_prompt is text, but the data is of kind image"));
}

}  // namespace
}  // namespace perceiver
