#include "perceiver/train.h"

#include <gmock/gmock.h>

#include <stdexcept>
#include <thread>

#include "tests/support/own_data.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TrainResult train_own(const Config& config, const TrainOptions& options) {
  return TrainingRun(config, options).run();
}

TEST(TrainingRun, LearnsTheCallersData) {
  const TempFolder folder;
  Config config = own_config(300);
  config.train.log_every = 300;
  Recorder observer;
  TrainingRun run(config, own_options(folder.path("run"), &observer));
  EXPECT_EQ(run.config().model.vocabulary, 10);
  const TrainResult result = run.run();
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_EQ(result.step, 300);
  ASSERT_EQ(observer.evals.size(), 1u);
  EXPECT_LT(observer.evals[0].loss, 0.7);  // the first id and the end cannot be known; ln 10 = 2.3 at first
  EXPECT_EQ(observer.evals[0].unit, "token");
  const Model model = Model::load(result.checkpoint, {.device = "cpu", .threads = 1});
  std::vector<int32_t> ids;
  for (const auto& [id, log_probability] : continuation(model, 8)) ids.push_back(id);
  EXPECT_THAT(ids, ElementsAre(5, 6, 7, 8, 9, 3, 4, 5));
  EXPECT_THAT(message_of([&] { model.score("text"); }), HasSubstr("a text cannot be encoded"));
}

TEST(TrainingRun, ModelIsWhatTheCheckpointHolds) {
  for (const double ema : {0.0, 0.9}) {
    const TempFolder folder;
    Config config = own_config(5);
    config.train.ema_decay = ema;
    config.checkpoint.keep_best = false;
    TrainingRun run(config, own_options(folder.path("run")));
    const TrainResult result = run.run();
    EXPECT_EQ(continuation(run.model()),
              continuation(Model::load(result.checkpoint, {.device = "cpu", .threads = 1})));
  }
}

TEST(TrainingRun, WithoutAFolderTheModelIsTheSameAndNothingIsWritten) {
  const TempFolder folder;
  Recorder with, without;
  TrainingRun first(own_config(), own_options(folder.path("run"), &with));
  first.run();
  TrainingRun second(own_config(), own_options({}, &without));
  const TrainResult result = second.run();
  EXPECT_TRUE(result.checkpoint.empty());
  EXPECT_TRUE(result.summary.folder.empty());
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_EQ(continuation(first.model()), continuation(second.model()));
  ASSERT_EQ(with.logs.size(), without.logs.size());
  for (size_t i = 0; i < with.logs.size(); ++i) EXPECT_EQ(with.logs[i].loss, without.logs[i].loss);
  ASSERT_EQ(without.evals.size(), 1u);
  EXPECT_EQ(with.evals[0].loss, without.evals[0].loss);
  EXPECT_TRUE(without.checkpoints.empty());
}

/// Stops its run at a step.
struct Stopper : Recorder {
  void on_log(const LogEntry& entry) override {
    Recorder::on_log(entry);
    if (entry.step == at && run != nullptr) run->stop();
  }
  TrainingRun* run = nullptr;
  int64_t at = 4;
};

TEST(TrainingRun, StoppedAndResumedItEqualsAnUninterruptedRun) {
  const TempFolder folder;
  TrainOptions options = own_options(folder.path("whole"));
  TrainingRun whole(own_config(), options);
  whole.run();
  Stopper stopper;
  options = own_options(folder.path("parts"), &stopper);
  TrainingRun start(own_config(), options);
  stopper.run = &start;
  const TrainResult stopped = start.run();
  EXPECT_EQ(stopped.status, TrainStatus::interrupted);
  EXPECT_EQ(stopped.step, 4);
  EXPECT_FALSE(stopped.checkpoint.empty());
  stopper.run = nullptr;
  options.resume = true;
  const auto reread = load_config(folder.path("parts/config.yaml"));  // says what kind of data it was
  TrainingRun rest(reread, options);
  EXPECT_EQ(rest.run().step, 8);
  EXPECT_TRUE(stopper.told("resuming"));
  EXPECT_EQ(continuation(whole.model()), continuation(rest.model()));
}

TEST(TrainingRun, TheFolderBelongsToTheRunUntilItHasRun) {
  const TempFolder folder;
  TrainOptions options = own_options(folder.path("run"));
  TrainingRun run(own_config(4), options);
  options.resume = true;
  EXPECT_THAT(message_of([&] { TrainingRun(own_config(6), options); }), HasSubstr("another run is training"));
  run.run();
  EXPECT_EQ(train_own(own_config(6), options).step, 6);
  EXPECT_EQ(continuation(run.model()).size(), 10u);
}

TEST(TrainingRun, StoppedBeforeItRunsItTakesNoStep) {
  TrainingRun run(own_config(), own_options());
  run.stop();
  const TrainResult result = run.run();
  EXPECT_EQ(result.status, TrainStatus::interrupted);
  EXPECT_EQ(result.step, 0);
  EXPECT_THAT(message_of([&] { run.run(); }), HasSubstr("has run"));
}

TEST(TrainingRun, OtherDataAreNoticedWhenResuming) {
  const TempFolder folder;
  TrainOptions options = own_options(folder.path("run"));
  train_own(own_config(4), options);
  options.resume = true;
  Documents documents;
  for (int i = 0; i < 7; ++i) documents.train.push_back(counting(i + 1, 20));
  documents.validation = {counting(3, 20)};
  DataFormat format;
  format.vocabulary = 10;
  options.data = data_in_memory(format, documents);
  EXPECT_THAT(message_of([&] { train_own(own_config(6), options); }), HasSubstr("the data has changed"));
  options.accept_new_data = true;
  EXPECT_EQ(train_own(own_config(6), options).step, 6);
}

TEST(TrainingRun, GoesOnFromAnotherModelsWeights) {
  const TempFolder folder;
  const TrainResult before = train_own(own_config(60), own_options(folder.path("before")));
  Config config = own_config(2);
  config.train.initialize = before.checkpoint;
  config.eval.every = 1;
  Recorder observer;
  train_own(config, own_options({}, &observer));
  EXPECT_TRUE(observer.told("parameters taken over"));
  ASSERT_FALSE(observer.evals.empty());
  EXPECT_EQ(observer.evals[0].step, 0);
  EXPECT_NEAR(observer.evals[0].loss, before.summary.last->loss, 1e-6);
}

TEST(TrainingRun, TextOfTheCallersGivesAModelOfText) {
  const std::string text = "the same words again, the same words again and again";
  Documents documents;
  for (const char c : text) documents.train.resize(1), documents.train[0].push_back(3 + c);
  documents.validation = documents.train;
  TrainOptions options;
  options.data = data_in_memory({.modality = "text", .tokenizer = "bytes"}, documents);
  Recorder observer;
  options.observer = &observer;
  TrainingRun run(own_config(4), options);
  run.run();
  ASSERT_EQ(observer.evals.size(), 1u);
  EXPECT_EQ(observer.evals[0].unit, "byte");
  EXPECT_NEAR(run.model().score(text).nats / (1.0 + static_cast<double>(text.size())), observer.evals[0].loss,
              1e-6);
}

TEST(TrainingRun, MistakesAreNamedBeforeTheFirstStep) {
  const auto message = [](Config config, TrainOptions options) {
    return message_of([&] { TrainingRun(std::move(config), std::move(options)); });
  };
  Config config = own_config();
  config.train.batch = 0;
  EXPECT_THAT(message(config, own_options()), HasSubstr("train.batch must be an integer"));
  config = own_config();
  config.optimizer.learning_rate = std::nan("");
  EXPECT_THAT(message(config, own_options()), HasSubstr("optimizer.learning_rate must be a number"));
  config = own_config();
  config.optimizer.type = static_cast<OptimizerType>(99);
  EXPECT_THAT(message(config, own_options()), HasSubstr("optimizer.type must be one of adam"));
  config = own_config();
  config.data.train = {"book.txt"};
  EXPECT_THAT(message(config, own_options()), HasSubstr("book.txt"));
  config = own_config();
  config.model.vocabulary = 5;
  EXPECT_THAT(message(config, own_options()), HasSubstr("model.vocabulary"));
  config = own_config();
  config.train.sample_every = 2;
  EXPECT_THAT(message(config, own_options()), HasSubstr("train.sample_every"));
  TrainOptions options = own_options();
  options.resume = true;
  EXPECT_THAT(message(own_config(), options), HasSubstr("nothing to resume"));
  options = own_options();
  options.data = data_in_memory({.vocabulary = 10}, {});
  EXPECT_THAT(message(own_config(), options), HasSubstr("no train documents"));
}

TEST(TrainingRun, AMistakeInTheDataEndsTheRunWithItsPlace) {
  TrainOptions options;
  options.data = data_in_memory({.vocabulary = 10}, {.train = {{3, 4, 11, 5}}});
  EXPECT_EQ(message_of([&] { train_own(own_config(), options); }),
            "train document 0: the id at index 2 is 11; ids of data are 3 to 9");
}

TEST(TrainingRun, WhatTheCallersCodeThrowsComesOutUnchanged) {
  struct Broken : Recorder {
    void on_log(const LogEntry&) override { throw std::out_of_range("mine"); }
  } observer;
  EXPECT_THROW(train_own(own_config(), own_options({}, &observer)), std::out_of_range);
  TrainOptions options;
  options.data = generated_data({.vocabulary = 10}, 8,
                                [](Split, int64_t, int32_t*) { throw std::out_of_range("mine"); });
  EXPECT_THROW(train_own(own_config(), options), std::out_of_range);
}

TEST(TrainingRun, SeveralAtOnceBesideGenerationAreAsAlone) {
  Config config = own_config(12);
  config.threads = 2;
  const auto train_once = [&](uint64_t seed) {
    Config mine = config;
    mine.train.seed = seed;
    TrainingRun run(mine, own_options());
    run.run();
    return continuation(run.model());
  };
  const std::vector alone{train_once(1), train_once(2)};
  TrainingRun other(config, own_options());
  const Model model = other.model();
  const auto generated = continuation(model);
  std::vector<decltype(continuation(model))> together(2);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 2; ++i) threads.emplace_back([&, i] { together[i] = train_once(i + 1); });
  for (int i = 0; i < 20; ++i) EXPECT_EQ(continuation(model), generated);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, alone);
}

}  // namespace
}  // namespace perceiver
