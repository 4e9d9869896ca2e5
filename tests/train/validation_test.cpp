#include "train/validation.h"

#include <gtest/gtest.h>

#include "eval/evaluator.h"
#include "tests/support/thread_world.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

struct Subject {
  Subject() : data(open_dataset(config.data)), model(config.model, DeviceContext::cpu(1), DType::f32) {
    model.parameters().initialize(1);
  }
  static Config make_config() {
    Config config = tiny_config();
    config.eval.batch = 2;
    config.eval.max_documents = 12;
    return config;
  }
  Config config = make_config();
  std::unique_ptr<Dataset> data;
  PerceiverAR model;
};

TEST(Validation, ScoresAsTheEvalSectionAsks) {
  const Subject subject;
  EvaluationOptions options;
  options.batch = 2;
  options.max_documents = 12;
  const EvaluationResult expected = evaluate(subject.model, *subject.data, Split::validation, options);
  const auto score = make_validation(subject.config, {})(subject.model, *subject.data, {});
  ASSERT_TRUE(score);
  EXPECT_EQ(score->loss, expected.nats_per_token());
  EXPECT_EQ(score->bits_per_unit, expected.bits_per_unit());
  EXPECT_EQ(score->unit, expected.unit);
}

TEST(Validation, ScoresAsManyWindowsAtOnceAsTrainingHasExamples) {
  Subject subject;
  subject.config.eval.batch = 0;
  subject.config.train.batch = 6;
  subject.config.train.micro_batches = 2;
  int batches = 0, polls = 0;
  EvaluationOptions options;
  options.batch = 3;
  options.max_documents = 12;
  const auto count = [&batches](int64_t, int64_t) { ++batches; };
  evaluate(subject.model, *subject.data, Split::validation, options, count);
  const Validate validate = make_validation(subject.config, [&] { return ++polls, false; });
  EXPECT_TRUE(validate(subject.model, *subject.data, {}));
  EXPECT_EQ(polls, batches);
  EXPECT_GT(batches, 1);
}

// 4 examples are 1, 1 and 2.
TEST(Validation, RanksWithSharesOfDifferentSizesScoreWhatOneDoes) {
  Subject subject;
  subject.config.eval.batch = 0;
  subject.config.train.batch = 4;
  const auto alone = make_validation(subject.config, {})(subject.model, *subject.data, {});
  run_ranks(3, [&](ThreadWorld& world) {
    const Subject own;
    const LearnerRanks ranks{.world = &world,
                             .all = world.communicator(own.model.context(), true),
                             .share = share_of(4, 1, world.rank(), 3)};
    const auto score = make_validation(subject.config, {})(own.model, *own.data, ranks);
    EXPECT_NEAR(score->loss, alone->loss, 1e-6 * alone->loss);
  });
}

TEST(Validation, GivesUpOnceItIsCancelled) {
  const Subject subject;
  int polls = 0;
  const Validate validate = make_validation(subject.config, [&] { return ++polls == 3; });
  EXPECT_FALSE(validate(subject.model, *subject.data, {}));
  EXPECT_EQ(polls, 3);
  EXPECT_TRUE(validate(subject.model, *subject.data, {}));
}

}  // namespace
}  // namespace perceiver
