#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <random>
#include <thread>

#include "config/load.h"
#include "io/safetensors.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// Validation whose score goes up and down, and depends on the weights alone.
ValidationScore score_weights(const PerceiverAR& model, const Dataset&, const LearnerRanks&) {
  double sum = 0;
  for (const float value : model.parameters().values().to_host<float>()) sum += std::abs(value);
  return {1 + std::fmod(sum * 100, 1.0), {}, ""};
}

TrainerOptions validated_options(const std::string& folder, bool resume, TrainObserver* observer = nullptr) {
  TrainerOptions options = run_options(folder, resume, observer);
  options.validate = score_weights;
  return options;
}

/// Stops a run after a step.
class StopAt : public Recorder {
 public:
  explicit StopAt(int64_t step) : step_(step) {}
  void on_eval(const EvalEntry& entry) override { stop = entry.step >= step_; }
  std::atomic<bool> stop = false;

 private:
  int64_t step_;
};

/// Trains to step `stop`, then goes on in a new trainer to the end.
void train_in_two_parts(const Config& config, const std::string& folder, int64_t stop) {
  StopAt observer(stop);
  TrainerOptions options = validated_options(folder, false, &observer);
  options.stop = &observer.stop;
  ASSERT_EQ(Trainer(config, options).run().status, TrainStatus::interrupted);
  ASSERT_EQ(Trainer(config, validated_options(folder, true)).run().status, TrainStatus::finished);
}

void expect_same_run(const std::string& a, const std::string& b, int64_t last) {
  EXPECT_EQ(checkpoint_bytes(a, last), checkpoint_bytes(b, last));
  EXPECT_EQ(timeless_metrics(a), timeless_metrics(b));
}

struct Case {
  const char* name;
  Config config;
};

Config with(OptimizerType type, double ema, int64_t micro_batches, Recompute recompute = Recompute::none) {
  Config config = tiny_config(8);
  config.optimizer.type = type;
  config.optimizer.weight_decay = 0.01;
  config.train.ema_decay = ema;
  config.train.micro_batches = micro_batches;
  config.train.recompute = recompute;
  config.train.log_every = 3;  // an entry's interval spans the stop
  config.eval.every = 1;
  config.model.context_dropout = 0.2;
  return config;
}

class ResumedRun : public testing::TestWithParam<Case> {};

TEST_P(ResumedRun, ContinuesBitwise) {
  const TempFolder folder;
  const std::string whole = folder.path("whole"), parts = folder.path("parts");
  Trainer(GetParam().config, validated_options(whole, false)).run();
  train_in_two_parts(GetParam().config, parts, 4);
  expect_same_run(whole, parts, 8);
  EXPECT_EQ(timeless_metrics(whole).size(), 3u + 8u);
  EXPECT_EQ(fs::read_symlink(whole + "/checkpoints/best"), fs::read_symlink(parts + "/checkpoints/best"));
}

INSTANTIATE_TEST_SUITE_P(Optimizers, ResumedRun,
                         testing::Values(Case{"adam", with(OptimizerType::adam, 0, 1)},
                                         Case{"adamw_averaged", with(OptimizerType::adamw, 0.9, 2)},
                                         Case{"sgd", with(OptimizerType::sgd, 0.9, 1)},
                                         Case{"lamb_recomputed",
                                              with(OptimizerType::lamb, 0, 1, Recompute::block)},
                                         Case{"adafactor", with(OptimizerType::adafactor, 0.5, 4)},
                                         Case{"muon_averaged", with(OptimizerType::muon, 0.5, 2)}),
                         [](const auto& test) { return std::string(test.param.name); });

// Large enough that loops are divided among threads.
class RunOnThreads : public testing::TestWithParam<std::pair<ModelType, OptimizerType>> {
 protected:
  static std::vector<float> weights_after(Config config, int threads) {
    const TempFolder folder;
    config.threads = threads;
    const TrainResult result = Trainer(config, run_options(folder.path("run"), false)).run();
    const LoadedModel loaded =
        load_model(result.checkpoint / model_file_name, DeviceContext::cpu(1), DType::f32);
    return loaded.model->parameters().values().to_host<float>();
  }
};

TEST_P(RunOnThreads, HasTheSameBitsOnAnyNumber) {
  Config config = tiny_config(3);
  config.model.type = GetParam().first;
  config.optimizer.type = GetParam().second;
  if (config.model.type != ModelType::perceiver_ar) {
    config.model.cross_heads = ModelConfig().cross_heads;
    config.model.cross_widening = ModelConfig().cross_widening;
  }
  config.model.input_channels = 96;
  config.model.residual_dropout = 0.1;
  config.model.layers = 2;
  config.model.context_length = config.data.copy_length = 512;
  config.model.latents = config.model.type == ModelType::perceiver_ar ? 128 : 512;
  if (config.model.type == ModelType::transformer_xl) config.model.memory_length = 256;
  const std::vector<float> alone = weights_after(config, 1);
  for (const int threads : {2, 3, 8})
    EXPECT_EQ(weights_after(config, threads), alone) << threads << " threads";
}

INSTANTIATE_TEST_SUITE_P(Models, RunOnThreads,
                         testing::Values(std::pair(ModelType::perceiver_ar, OptimizerType::adamw),
                                         std::pair(ModelType::perceiver_ar, OptimizerType::adafactor),
                                         std::pair(ModelType::perceiver_ar, OptimizerType::muon),
                                         std::pair(ModelType::transformer, OptimizerType::lamb),
                                         std::pair(ModelType::transformer_xl, OptimizerType::sgd)));

TEST(Resume, InDoublePrecision) {
  const TempFolder folder;
  Config config = tiny_config(4);
  config.train.precision = Precision::float64;
  train(config, folder.path("whole"));
  config.train.steps = 2;
  train(config, folder.path("parts"));
  config.train.steps = 4;
  train(config, folder.path("parts"), true);
  const auto tensor = [&](const std::string& run) {
    const SafetensorsFile file = SafetensorsFile::open(checkpoint_path(run, 4) + "/model.safetensors");
    const auto bytes = file.bytes(*file.find("output.linear.weight"));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  EXPECT_EQ(tensor(folder.path("whole")), tensor(folder.path("parts")));
  EXPECT_EQ(tensor(folder.path("whole")).size(), 259u * 16 * 8);
}

TEST(Resume, NothingThereIsAnError) {
  const TempFolder folder;
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(tiny_config(), folder.path("none"), true); }),
              HasSubstr("no such folder"));
  EXPECT_FALSE(fs::exists(folder.path("none")));
  fs::create_directory(folder.path("empty"));
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(tiny_config(), folder.path("empty"), true); }),
              HasSubstr("without --resume"));
}

TEST(Resume, AFinishedRunStaysAsItIs) {
  const TempFolder folder;
  train(tiny_config(2), folder.path("run"));
  const auto before = checkpoint_bytes(folder.path("run"), 2);
  const auto metrics = timeless_metrics(folder.path("run"));
  Recorder recorder;
  const TrainResult result = train(tiny_config(2), folder.path("run"), true, &recorder);
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_THAT(recorder.checkpoints, IsEmpty());
  EXPECT_EQ(checkpoint_bytes(folder.path("run"), 2), before);
  EXPECT_EQ(timeless_metrics(folder.path("run")), metrics);
}

TEST(Resume, RefusesWhatWouldMakeItAnotherRun) {
  const TempFolder folder;
  train(tiny_config(1), folder.path("run"));
  for (const char* change :
       {"model.layers=2", "model.residual_dropout=0.3", "data.seed=3", "loss.z_loss=0", "optimizer.beta1=0.5",
        "optimizer.learning_rate=0.5", "train.batch=8", "train.micro_batches=2", "train.seed=8",
        "train.ema_decay=0.5", "train.initialize=/other"}) {
    const std::string saved = folder.path("run/config.yaml");
    const Config changed = load_config(saved, {change});
    const std::string message = error_of(ErrorKind::user, [&] { train(changed, folder.path("run"), true); });
    const std::string key(change, std::string_view(change).find('='));
    EXPECT_THAT(message, HasSubstr(key + ": ")) << change;
    EXPECT_THAT(message, HasSubstr("cannot be resumed")) << change;
  }
}

TEST(Resume, AllowsLengthIntervalsAndLimitsToChange) {
  const TempFolder folder;
  train(tiny_config(1), folder.path("run"));
  const Config changed = load_config(
      folder.path("run/config.yaml"),
      {"train.steps=2", "train.log_every=5", "train.max_minutes=10", "train.recompute=block", "threads=1",
       "checkpoint.every=7", "checkpoint.keep=9", "eval.every=3", "schedule.type=constant"});
  EXPECT_EQ(train(changed, folder.path("run"), true).step, 2);
  EXPECT_EQ(load_config(folder.path("run/config.yaml")).checkpoint.keep, 9);
}

// A run may move to another device, and with it to the precision that the device is good at.
TEST(Resume, AllowsThePrecisionToChange) {
  const TempFolder folder;
  Config config = tiny_config(0);
  config.train.ema_decay = 0.9;
  for (const Precision precision : {Precision::float64, Precision::float32, Precision::float64}) {
    ++config.train.steps;
    config.train.precision = precision;
    const bool resume = config.train.steps > 1;
    Recorder recorder;
    EXPECT_EQ(train(config, folder.path("run"), resume, &recorder).step, config.train.steps);
    ASSERT_EQ(recorder.logs.size(), 1u);
    EXPECT_TRUE(std::isfinite(recorder.logs[0].loss));
  }
}

TEST(Resume, LinksTheBestCheckpointThatAKilledProcessDidNot) {
  const TempFolder folder;
  Config config = with(OptimizerType::adam, 0, 1);
  config.checkpoint.keep = 1;
  Trainer(config, validated_options(folder.path("run"), false)).run();
  const fs::path link = folder.path("run/checkpoints/best");
  const fs::path target = fs::read_symlink(link);
  fs::remove(link);
  Trainer(config, validated_options(folder.path("run"), true)).run();
  EXPECT_EQ(fs::read_symlink(link), target);
}

/// While this lives, no file can grow past `bytes`: what a full disk is to a writer.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

TEST(Resume, AFullDiskCostsNoCheckpoint) {
  const TempFolder folder;
  Config config = tiny_config(6);
  config.checkpoint.every = 2;
  config.checkpoint.keep = 1;
  train(config, folder.path("whole"));
  const std::string run = folder.path("run");
  Config first = config;
  first.train.steps = 2;
  train(first, run);
  {
    const FileSizeLimit limit(20000);
    const std::string message = error_of(ErrorKind::failure, [&] { train(config, run, true); });
    EXPECT_THAT(message, HasSubstr("model.safetensors"));
    EXPECT_THAT(message, HasSubstr("File too large"));
  }
  EXPECT_THAT(checkpoint_steps(run), ElementsAre(2));
  EXPECT_EQ(verify_checkpoint(checkpoint_path(run, 2)).step, 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(run + "/checkpoints"), fs::directory_iterator()), 1);
  train(config, run, true);
  expect_same_run(folder.path("whole"), run, 6);
}

// The disk fills up behind the checkpoint of step 2, within one process.
TEST(Resume, ADiskThatFillsUpDuringARunLeavesTheLastCheckpoint) {
  const TempFolder folder;
  Config config = tiny_config(6);
  config.checkpoint.every = 2;
  config.checkpoint.keep = 1;
  train(config, folder.path("whole"));
  struct Filler : Recorder {
    void on_checkpoint(int64_t, const fs::path&) override { limit.emplace(20000); }
    std::optional<FileSizeLimit> limit;
  } filler;
  const std::string run = folder.path("run");
  const std::string message = error_of(ErrorKind::failure, [&] { train(config, run, false, &filler); });
  filler.limit.reset();
  EXPECT_THAT(message, HasSubstr("step-000000004"));
  EXPECT_THAT(message, HasSubstr("File too large"));
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_THAT(checkpoint_steps(run), ElementsAre(2));
  EXPECT_EQ(std::distance(fs::directory_iterator(run + "/checkpoints"), fs::directory_iterator()), 1);
  train(config, run, true);
  expect_same_run(folder.path("whole"), run, 6);
}

TEST(Resume, AfterATimeLimitItGoesOnBitwise) {
  const TempFolder folder;
  Config config = tiny_config(400);
  config.train.log_every = 7;
  train(config, folder.path("whole"));
  Config limited = config;
  limited.train.max_minutes = 1e-4;
  const std::string run = folder.path("run");
  ASSERT_EQ(Trainer(limited, validated_options(run, false)).run().status, TrainStatus::out_of_time);
  EXPECT_EQ(Trainer(limited, validated_options(run, true)).run().status, TrainStatus::out_of_time);
  train(config, run, true);
  EXPECT_EQ(checkpoint_bytes(folder.path("whole"), 400), checkpoint_bytes(run, 400));
  std::vector<nlohmann::json> entries = timeless_metrics(run);
  EXPECT_GE(std::erase_if(entries, [](const auto& entry) { return entry.contains("validation_loss"); }), 1u);
  EXPECT_EQ(entries, timeless_metrics(folder.path("whole")));
}

constexpr const char* kFolderVariable = "PERCEIVER_TEST_RUN";

Config killed_config() {
  Config config = with(OptimizerType::adamw, 0.9, 2);
  config.train.steps = 60;
  config.checkpoint.every = 1;
  config.checkpoint.keep = 2;
  config.train.tensorboard = true;
  return config;
}

// What the processes of the test below run; on its own it has no folder to work in.
TEST(KilledProcess, DISABLED_Trains) {
  const char* const folder = std::getenv(kFolderVariable);
  ASSERT_NE(folder, nullptr);
  const bool resume = !checkpoint_steps(folder).empty();
  Trainer(killed_config(), validated_options(folder, resume)).run();
}

pid_t start_training(const std::string& folder) {
  const pid_t process = fork();
  if (process != 0) return process;
  setenv(kFolderVariable, folder.c_str(), 1);
  if (std::freopen("/dev/null", "w", stdout) == nullptr) _exit(3);
  execl("/proc/self/exe", "perceiver_tests", "--gtest_filter=KilledProcess.DISABLED_Trains",
        "--gtest_also_run_disabled_tests", static_cast<char*>(nullptr));
  _exit(3);
}

int64_t newest_step(const std::string& folder) {
  const std::vector<int64_t> steps = checkpoint_steps(folder);
  return steps.empty() ? 0 : steps.back();
}

/// Starts a training process, waits until it has saved something new and some more, and kills it. Returns the
/// newest step that was seen.
int64_t train_and_kill(const std::string& folder, std::chrono::microseconds more) {
  const int64_t before = newest_step(folder);
  const pid_t process = start_training(folder);
  int status = 0;
  while (newest_step(folder) <= before && waitpid(process, &status, WNOHANG) == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(more);
  const int64_t seen = newest_step(folder);
  kill(process, SIGKILL);
  waitpid(process, &status, 0);
  return seen;
}

TEST(Resume, KilledAtAnyMomentItGoesOnBitwise) {
  const TempFolder folder;
  const std::string whole = folder.path("whole"), killed = folder.path("killed");
  Trainer(killed_config(), validated_options(whole, false)).run();
  std::mt19937 random(1);
  int kills = 0;
  for (; kills < 20 && newest_step(killed) < 55; ++kills) {
    const auto more = std::chrono::microseconds(random() % 25000);
    const int64_t seen = train_and_kill(killed, more);
    ASSERT_GT(seen, 0);
    const ResumePoint point = RunFolder(killed).find_resume_point();
    EXPECT_THAT(point.damaged, IsEmpty());
    EXPECT_GE(point.state.step, seen);
    const fs::path best = killed + "/checkpoints/best";
    EXPECT_EQ(fs::is_symlink(best), fs::exists(best));
  }
  EXPECT_GE(kills, 5);
  EXPECT_LT(newest_step(killed), 60);
  Trainer(killed_config(), validated_options(killed, true)).run();
  expect_same_run(whole, killed, 60);
  EXPECT_EQ(checkpoint_steps(whole), checkpoint_steps(killed));
  EXPECT_EQ(fs::read_symlink(whole + "/checkpoints/best"), fs::read_symlink(killed + "/checkpoints/best"));
}

}  // namespace
}  // namespace perceiver
