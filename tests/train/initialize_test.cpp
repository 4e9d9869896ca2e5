// Fine-tuning: a run that starts from another one's weights.
#include "train/initialize.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "config/load.h"
#include "io/safetensors.h"
#include "model/model_file.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

/// A run of two steps to start from; returns its folder.
std::string source_run(const TempFolder& folder, Config config = tiny_config(2)) {
  config.train.steps = 2;
  train(config, folder.path("source"));
  return folder.path("source");
}

/// A run that starts from `source` and stops before its first step.
Config continuation(const std::string& source, Config config = tiny_config(0)) {
  config.train.initialize = source;
  config.train.steps = 0;
  config.train.seed = 100;
  return config;
}

std::vector<float> weights_in(const fs::path& model_file, const std::string& name) {
  const LoadedModel loaded = load_model(model_file, DeviceContext::cpu(1), DType::f32);
  const ParameterStore& store = loaded.model->parameters();
  return store.find(name) == nullptr ? std::vector<float>{} : store.value(*store.find(name)).to_host<float>();
}

std::vector<float> weights_of(const std::string& run, const std::string& name) {
  return weights_in(find_model_file(run), name);
}

std::vector<float> first(std::vector<float> values, size_t count) {
  values.resize(count);
  return values;
}

std::vector<float> last(const std::vector<float>& values, size_t count) {
  return {values.end() - static_cast<ptrdiff_t>(count), values.end()};
}

std::string refusal(const TempFolder& folder, const Config& config) {
  return error_of(ErrorKind::user, [&] { train(config, folder.path("refused")); });
}

TEST(Initialize, TakesWeightsOfEightBits) {
  const TempFolder folder;
  const std::string narrow = folder.path("narrow.safetensors");
  {
    const LoadedModel source =
        load_model(find_model_file(source_run(folder)), DeviceContext::cpu(1), DType::f32);
    source.model->quantize_weights(DType::i8);
    save_model(narrow, *source.model, source.metadata);
  }
  Config config = continuation(narrow);
  Trainer trainer(config, run_options(folder.path("run"), false));
  trainer.run();
  const LoadedModel loaded = load_model(narrow, DeviceContext::cpu(1), DType::f32);
  EXPECT_EQ(trainer.model().parameters().values().to_host<float>(),
            loaded.model->parameters().values().to_host<float>());
}

TEST(Initialize, TakesAllWeightsAndStartsAfresh) {
  const TempFolder folder;
  const std::string source = source_run(folder);
  Config config = continuation(source);
  config.optimizer.learning_rate = 1e-4;
  config.optimizer.type = OptimizerType::adamw;
  config.train.batch = 2;
  Recorder recorder;
  Trainer trainer(config, run_options(folder.path("run"), false, &recorder));
  EXPECT_EQ(trainer.run().step, 0);
  const LoadedModel loaded = load_model(find_model_file(source), DeviceContext::cpu(1), DType::f32);
  EXPECT_EQ(trainer.model().parameters().values().to_host<float>(),
            loaded.model->parameters().values().to_host<float>());
  EXPECT_EQ(trainer.learner().updates(), 0);
  const int64_t count = trainer.model().parameters().count();
  EXPECT_TRUE(recorder.told(fmt::format("(step 2): {} of {} parameters taken over", count, count)));
  EXPECT_TRUE(recorder.told(find_model_file(source).string()));
  EXPECT_FALSE(recorder.told("afresh: "));
  EXPECT_FALSE(recorder.told("configured differently"));
}

TEST(Initialize, TakesTheMovingAverageAndStartsItsOwnThere) {
  const TempFolder folder;
  Config config = tiny_config();
  config.train.ema_decay = 0.9;
  const std::string source = source_run(folder, config);
  const TrainResult result = train(continuation(source, config), folder.path("run"));
  const std::string name = "output.linear.weight";
  const std::vector<float> average =
      weights_in(fs::path(checkpoint_path(source, 2)) / average_file_name, name);
  EXPECT_NE(average, weights_in(fs::path(checkpoint_path(source, 2)) / model_file_name, name));
  EXPECT_EQ(weights_in(result.checkpoint / model_file_name, name), average);
  EXPECT_EQ(weights_in(result.checkpoint / average_file_name, name), average);
}

TEST(Initialize, ContextLatentsAndDropoutMayDiffer) {
  const TempFolder folder;
  const std::string source = source_run(folder);
  Config config = continuation(source);
  config.model.context_length = 32;
  config.model.latents = 16;
  config.model.residual_dropout = 0;
  Recorder recorder;
  train(config, folder.path("run"), false, &recorder);
  EXPECT_EQ(weights_of(folder.path("run"), "self.0.attention.q.weight"),
            weights_of(source, "self.0.attention.q.weight"));
  EXPECT_TRUE(recorder.told("model.context_length is 16 there, 32 here; model.latents is 8 there, 16 here"));
  EXPECT_TRUE(recorder.told("model.residual_dropout is 0.1 there, 0 here"));
  EXPECT_TRUE(recorder.told("the longest rotary wavelength is 32 positions instead of the checkpoint's 16"));
}

TEST(Initialize, AShorterContextCanKeepItsWavelengths) {
  const TempFolder folder;
  Config longer = tiny_config();
  longer.model.context_length = 32;
  const std::string source = source_run(folder, longer);
  Recorder recorder;
  Config config = continuation(source);
  train(config, folder.path("a"), false, &recorder);
  EXPECT_TRUE(recorder.told("model.max_wavelength=32 would keep it"));
  config.model.max_wavelength = 32;
  Recorder kept;
  train(config, folder.path("b"), false, &kept);
  EXPECT_FALSE(kept.told("wavelength is 16"));
}

Config with_tables() {
  Config config = tiny_config();
  config.model.position_encoding = PositionEncoding::absolute;
  config.model.position_table = PositionTable::learned;
  config.model.learnable_positions = true;
  config.model.query_style = QueryStyle::learned;
  return config;
}

TEST(Initialize, TablesOfAnotherLengthShareTheirRows) {
  const TempFolder folder;
  const std::string source = source_run(folder, with_tables());
  Config config = continuation(source, with_tables());
  config.model.context_length = 20;
  config.model.latents = 10;
  Recorder recorder;
  train(config, folder.path("run"), false, &recorder);
  const std::string positions = "position_embedding.0.weight", query = "query.learned";
  const std::vector<float> before = weights_of(source, positions),
                           after = weights_of(folder.path("run"), positions);
  ASSERT_EQ(before.size(), 18u * 16);
  ASSERT_EQ(after.size(), 22u * 16);
  EXPECT_EQ(first(after, before.size()), before);
  EXPECT_NE(after[before.size()], 0);
  // The last row of the query is that of the last token.
  const std::vector<float> queries = weights_of(source, query);
  EXPECT_EQ(last(weights_of(folder.path("run"), query), queries.size()), queries);
  EXPECT_TRUE(recorder.told("position_embedding.0.weight (18 rows there, 22 here)"));
  EXPECT_TRUE(recorder.told("query.learned (8 rows there, 10 here)"));

  // And back: what is shorter takes what it has room for.
  Config shorter = continuation(folder.path("run"), with_tables());
  train(shorter, folder.path("shorter"));
  EXPECT_EQ(weights_of(folder.path("shorter"), positions), before);
  EXPECT_EQ(weights_of(folder.path("shorter"), query), queries);
}

TEST(Initialize, AVocabularyWithRoomToSpareIsNoObstacle) {
  const TempFolder folder;
  const std::string source = source_run(folder);
  Config config = continuation(source);
  config.model.vocabulary = 264;
  train(config, folder.path("run"));
  const std::string embedding = "token_embedding.weight", bias = "output.linear.bias";
  EXPECT_EQ(first(weights_of(folder.path("run"), embedding), 259 * 16), weights_of(source, embedding));
  EXPECT_EQ(first(weights_of(folder.path("run"), bias), 259), weights_of(source, bias));
}

TEST(Initialize, AnotherModelIsRefusedKeyByKey) {
  const TempFolder folder;
  const std::string source = source_run(folder);
  Config config = continuation(source);
  config.model.layers = 3;
  EXPECT_THAT(refusal(folder, config), AllOf(HasSubstr(source), HasSubstr("model.layers is 1 there, 3 here"),
                                             HasSubstr("train.initialize_partial=true")));
  config.train.initialize_partial = true;
  config.model.self_heads = 4;
  config.model.self_widening = 3;
  EXPECT_THAT(refusal(folder, config),
              AllOf(HasSubstr("model.self_heads is 2 there, 4 here; model.self_widening is 2 there, 3 here"),
                    Not(HasSubstr("initialize_partial"))));
  EXPECT_FALSE(fs::exists(folder.path("refused/config.yaml")));
  config.train.initialize = folder.path("nothing");
  EXPECT_THAT(refusal(folder, config),
              AllOf(StartsWith("train.initialize: "), HasSubstr("no such checkpoint")));
}

TEST(Initialize, PartlyTakesWhatFits) {
  const TempFolder folder;
  const std::string source = source_run(folder);
  Config config = continuation(source);
  config.model.layers = 3;
  config.train.initialize_partial = true;
  Recorder recorder;
  train(config, folder.path("run"), false, &recorder);
  const std::string name = ".attention.q.weight";
  EXPECT_EQ(weights_of(folder.path("run"), "self.0" + name), weights_of(source, "self.0" + name));
  EXPECT_FALSE(weights_of(folder.path("run"), "self.2" + name).empty());
  EXPECT_TRUE(recorder.told("does not fit: model.layers is 1 there, 3 here"));
  EXPECT_TRUE(recorder.told("starting afresh: self.1; self.2"));

  Config smaller = continuation(folder.path("run"));
  smaller.train.initialize_partial = true;
  Recorder less;
  train(smaller, folder.path("smaller"), false, &less);
  EXPECT_TRUE(less.told("not taken over: self.1; self.2"));
}

TEST(Initialize, OtherTokensAreRefusedUnlessAPartIsWanted) {
  const TempFolder folder;
  Config config = continuation(source_run(folder));
  config.data.type = "text";
  config.data.train = {folder.write("text.txt", std::string(500, 'a'))};
  EXPECT_THAT(refusal(folder, config), HasSubstr("its tokens are copy there, text here"));
  config.train.initialize_partial = true;
  EXPECT_EQ(train(config, folder.path("run")).status, TrainStatus::finished);
}

TEST(Initialize, TrainedTablesAreNotDroppedSilently) {
  const TempFolder folder;
  Config trained = tiny_config();
  trained.model.position_encoding = PositionEncoding::absolute;
  trained.model.learnable_positions = true;
  const std::string source = source_run(folder, trained);
  Config config = continuation(source, trained);
  config.model.learnable_positions = false;
  EXPECT_THAT(refusal(folder, config), HasSubstr("has trained position_embedding.0.weight"));
  config.train.initialize_partial = true;
  Recorder recorder;
  train(config, folder.path("formula"), false, &recorder);
  EXPECT_TRUE(recorder.told("not taken over: position_embedding.0.weight"));

  // The other way round the table starts from its formula, as the checkpoint's is.
  Config back = continuation(folder.path("formula"), trained);
  EXPECT_EQ(train(back, folder.path("trained")).status, TrainStatus::finished);
}

TEST(Initialize, ARunGoesOnBitwiseWithoutItsSource) {
  const TempFolder folder;
  const std::string source = source_run(folder);
  Config config = tiny_config(4);
  config.train.initialize = source;
  config.train.ema_decay = 0.5;
  train(config, folder.path("whole"));
  config.train.steps = 2;
  config.schedule.decay_steps = 20;
  train(config, folder.path("parts"));
  fs::remove_all(source);
  config.train.steps = 4;
  train(config, folder.path("parts"), true);
  EXPECT_EQ(checkpoint_bytes(folder.path("whole"), 4), checkpoint_bytes(folder.path("parts"), 4));

  // Started over, it needs the source; and it does not resume from anything else.
  EXPECT_THAT(refusal(folder, config), HasSubstr("no such checkpoint"));
  config.train.initialize = folder.path("other");
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(config, folder.path("parts"), true); }),
              HasSubstr("was trained with train.initialize: "));
}

TEST(Initialize, TheRunKnowsItsSourceWhereverItIsResumed) {
  const TempFolder folder;
  const std::string source = source_run(folder);
  train(continuation(fs::relative(source).string()), folder.path("run"));
  EXPECT_EQ(load_config(folder.path("run/config.yaml")).train.initialize, source);
}

TEST(Initialize, TheStartingPointIsValidated) {
  const TempFolder folder;
  Config config = tiny_config(2);
  config.train.initialize = source_run(folder);
  config.checkpoint.keep = 1;
  config.eval.every = 1;
  Recorder recorder;
  TrainerOptions options = run_options(folder.path("run"), false, &recorder);
  std::vector<double> scores{1, 3, 2};
  size_t next = 0;
  options.validate = [&](const PerceiverAR&, const Dataset&, const LearnerRanks&) {
    return ValidationScore{scores.at(next++), {}, ""};
  };
  Trainer(config, options).run();
  ASSERT_EQ(recorder.evals.size(), 3u);
  EXPECT_EQ(recorder.evals[0].step, 0);
  EXPECT_TRUE(recorder.evals[0].is_best);
  // Fine-tuning did not help, so the best model is the one it started from.
  EXPECT_EQ(fs::read_symlink(folder.path("run/checkpoints/best")), "step-000000000");
  EXPECT_THAT(checkpoint_steps(folder.path("run")), ElementsAre(0, 2));
}

}  // namespace
}  // namespace perceiver
