#include "train/run_report.h"

#include <gmock/gmock.h>

#include "tests/support/data_paths.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct HeaderRecorder : Recorder {
  void on_start(const RunHeader& found) override { header = found; }
  RunHeader header;
};

TEST(RunReport, ARunIntroducesItself) {
  const TempFolder folder;
  Config config = tiny_config(2);
  config.data = paths({folder.write("text.txt", std::string(1000, 'a'))}, 0.2);
  HeaderRecorder recorder;
  train(config, folder.path("run"), false, &recorder);
  const RunHeader& header = recorder.header;
  EXPECT_EQ(header.folder, folder.path("run"));
  EXPECT_EQ(header.step, 0);
  EXPECT_EQ(header.modality, "text");
  EXPECT_EQ(header.data.of(Split::train).tokens, 802);
  EXPECT_EQ(header.data.of(Split::validation).tokens, 202);
  // A step trains 4 examples of 8 targets each.
  EXPECT_EQ(header.steps_per_epoch, 801.0 / 32);
  EXPECT_GT(header.available_bytes, header.memory.total());

  config.train.steps = 3;
  train(config, folder.path("run"), true, &recorder);
  EXPECT_EQ(recorder.header.step, 2);
}

TEST(RunReport, AHeaderIsOneLineForEachThing) {
  RunHeader header;
  header.folder = "runs/a";
  header.precision = "f32";
  header.config = tiny_config(3000);
  header.config.model.context_length = 512;
  header.step = 200;
  header.parameters = 1'070'000;
  header.modality = "text";
  header.data.splits = {{{12, 1'000'000}, {1, 53'200}, {}}};
  header.skipped_files = 3;
  header.repaired_files = 1;
  header.steps_per_epoch = 1500;
  header.device = "cpu";
  header.threads = 2;
  header.memory = {.weights = 4 << 20, .gradients = 4 << 20, .optimizer = 8 << 20, .activations = 34 << 20};
  header.program_bytes = int64_t{200} << 20;
  header.available_bytes = int64_t{19} << 30;
  EXPECT_THAT(
      header_lines(header),
      ElementsAre("model   perceiver_ar, 1.07M parameters, 1 layer of 16 channels, context 512, 8 latents",
                  "data    text: train 12 documents (1.00M tokens), validation 1 document (53.2k tokens), no "
                  "test; 3 files skipped; 1 file repaired",
                  "device  cpu, 2 threads, f32",
                  "memory  about 250 MiB: weights 4.0 MiB, gradients 4.0 MiB, optimizer 8.0 MiB, activations "
                  "34.0 MiB, program and data 200 MiB (of 19.0 GiB)",
                  "steps   200 to 3000 of 4 examples, 1500 to an epoch (2 epochs); adam, learning rate 0.01, "
                  "cosine after 3 warm-up steps",
                  "run     runs/a"));
}

TEST(RunReport, ASummaryNamesTheBestAndTheLastValidation) {
  RunSummary summary;
  summary.elapsed = summary.seconds = 123;
  summary.targets_per_second = 12'100;
  EXPECT_THAT(summary_lines(summary), ElementsAre("2:03 of training, 12.1k tokens/s"));
  summary.seconds = 60;
  summary.skipped = 1;
  summary.best = ValidationSummary{3000, 1.25, 1.8, "byte"};
  summary.last = ValidationSummary{4000, 1.5, {}, ""};
  summary.best_checkpoint = "runs/a/checkpoints/step-000003000";
  EXPECT_THAT(summary_lines(summary),
              ElementsAre("2:03 of training, 1:00 of it since resuming, 12.1k tokens/s, 1 step skipped",
                          "best validation 1.2500 nats 1.8034 bits, 1.8000 bits per byte at step 3000",
                          "last validation 1.5000 nats 2.1640 bits at step 4000",
                          "best checkpoint runs/a/checkpoints/step-000003000"));
}

TEST(RunReport, ARunSumsUp) {
  const TempFolder folder;
  Config config = tiny_config(4);
  config.eval.every = 2;
  TrainerOptions options = run_options(folder.path("run"));
  double loss = 2;
  options.validate = [&](const PerceiverAR&, const Dataset&, const LearnerRanks&) {
    return ValidationScore{++loss, 1.5, "byte"};
  };
  const RunSummary summary = Trainer(config, options).run().summary;
  EXPECT_EQ(summary.step, 4);
  EXPECT_GT(summary.targets_per_second, 0);
  ASSERT_TRUE(summary.best && summary.last);
  EXPECT_EQ(summary.best->step, 2);
  EXPECT_EQ(summary.best->loss, 3);
  EXPECT_EQ(summary.last->step, 4);
  EXPECT_EQ(summary.best_checkpoint, checkpoint_path(folder.path("run"), 2));
}

TEST(RunReport, BytesHaveThreeDigits) {
  EXPECT_EQ(bytes_text(1 << 19), "0.5 MiB");
  EXPECT_EQ(bytes_text(int64_t{250} << 20), "250 MiB");
  EXPECT_EQ(bytes_text(int64_t{19} << 30), "19.0 GiB");
}

}  // namespace
}  // namespace perceiver
