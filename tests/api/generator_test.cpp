#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "generate/stop_strings.h"
#include "model/model_file.h"
#include "perceiver/error.h"
#include "perceiver/generator.h"
#include "perceiver/model.h"
#include "tests/support/generation_model.h"
#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

using namespace testing;

/// A small byte model on disk, loaded through the public interface.
class GeneratorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ModelConfig config = generation_config();
    config.vocabulary = 259;
    model_ = load(config);
  }

  Model load(const ModelConfig& config, int threads = 1) {
    const auto model = varied_model(config, DType::f32);
    ModelMetadata metadata;
    metadata.model = config;
    const std::string path = folder_.path("model" + std::to_string(++files_) + ".safetensors");
    save_model(path, *model, metadata);
    return Model::load(path, {.device = "cpu", .threads = threads});
  }

  static std::string rest_of(Generator& generator) {
    std::string text;
    generator.run([&](const GeneratedToken& token) {
      text += token.text;
      return true;
    });
    return text;
  }

  TempFolder folder_;
  int files_ = 0;
  std::optional<Model> model_;
};

GenerateOptions options_of(uint64_t seed, GenerationPolicy policy = GenerationPolicy::automatic) {
  GenerateOptions options;
  options.tokens = 40;
  options.seed = seed;
  options.ignore_eos = true;
  options.policy = policy;
  return options;
}

TEST_F(GeneratorTest, AdvancesTokenByToken) {
  Generator generator = model_->start("To be", options_of(1));
  std::string text;
  int count = 0;
  double log_probability = 0;
  while (const auto token = generator.next()) {
    text += token->text;
    log_probability += token->log_probability;
    ++count;
    EXPECT_EQ(token->id, generator.tokens().back());
  }
  EXPECT_EQ(count, 40);
  EXPECT_TRUE(generator.ended());
  EXPECT_FALSE(generator.next());
  EXPECT_EQ(generator.tokens().size(), 46u);
  EXPECT_EQ(generator.log_probability(), log_probability);
  EXPECT_EQ(model_->generate("To be", options_of(1)), text);
  EXPECT_NE(model_->generate("To be", options_of(2)), text);
}

TEST_F(GeneratorTest, IsCancelledFromAnotherThread) {
  GenerateOptions options = options_of(1);
  options.tokens = 1000000;
  Generator generator = model_->start("", options);
  ASSERT_TRUE(generator.next());
  std::thread other([&] { generator.cancel(); });
  while (generator.next()) {
  }
  other.join();
  EXPECT_TRUE(generator.ended());
  EXPECT_LT(generator.tokens().size(), 900000u);
}

TEST_F(GeneratorTest, ForksShareTheBeginning) {
  for (const auto policy : {GenerationPolicy::exact, GenerationPolicy::refill, GenerationPolicy::stream}) {
    for (const int steps : {0, 1, 9, 30}) {
      Generator original = model_->start("To be, or", options_of(1, policy));
      for (int i = 0; i < steps; ++i) original.next();
      Generator same = original.fork(1), other = original.fork(2);
      EXPECT_EQ(same.tokens(), original.tokens());
      const std::string text = rest_of(original);
      EXPECT_EQ(rest_of(same), text);
      EXPECT_NE(rest_of(other), text);
      EXPECT_EQ(other.tokens().size(), original.tokens().size());
      EXPECT_EQ(same.tokens(), original.tokens());
    }
  }
}

TEST_F(GeneratorTest, GoesOnFromWhatWasSaved) {
  for (const auto policy : {GenerationPolicy::exact, GenerationPolicy::refill, GenerationPolicy::stream}) {
    for (const int steps : {0, 1, 9, 30, 40}) {
      GenerateOptions options = options_of(5, policy);
      options.stop = {"\x01\x02\x03 never"};
      options.logit_bias = {{70, 1.5f}};
      options.top_k = 50;
      options.repetition_penalty = 1.1;
      Generator original = model_->start("To be", options);
      for (int i = 0; i < steps; ++i) original.next();
      const std::string saved = original.save();
      EXPECT_EQ(saved, original.save());
      const std::string text = rest_of(original);
      Generator again = model_->restore(saved);
      EXPECT_EQ(rest_of(again), text);
      EXPECT_EQ(again.tokens(), original.tokens());
      EXPECT_EQ(again.log_probability(), original.log_probability());
    }
  }
}

TEST_F(GeneratorTest, RefusesWhatItDidNotSave) {
  Generator generator = model_->start("To be", options_of(1));
  for (int i = 0; i < 12; ++i) generator.next();
  const std::string saved = generator.save();
  EXPECT_THROW(model_->restore(""), Error);
  EXPECT_THROW(model_->restore("{}"), Error);
  EXPECT_THROW(model_->restore(saved.substr(0, saved.size() / 2)), Error);
  ModelConfig config = generation_config();
  config.vocabulary = 259;
  config.layers = 1;
  EXPECT_THROW(load(config).restore(saved), Error);
  // Digits of the state turned into others are refused, or give a sequence that can be run to its end.
  const size_t begin = saved.find("\\\"computed\\\""), end = saved.find("temperature");
  ASSERT_LT(begin, end);
  for (size_t i = begin; i < end; ++i) {
    if (saved[i] < '0' || saved[i] > '9') continue;
    std::string damaged = saved;
    damaged[i] = damaged[i] == '9' ? '0' : '9';
    try {
      Generator again = model_->restore(damaged);
      rest_of(again);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::user) << error.what();
    }
  }
}

TEST_F(GeneratorTest, StopsBeforeStrings) {
  const std::string whole = model_->generate("To be", options_of(3));
  GenerateOptions options = options_of(3);
  // The text's own characters from somewhere in its middle on: found across pieces.
  size_t middle = whole.size() / 2;
  while (middle < whole.size() && (static_cast<uint8_t>(whole[middle]) & 0xC0) == 0x80) ++middle;
  size_t end = middle + 1;
  while (end < whole.size() && (static_cast<uint8_t>(whole[end]) & 0xC0) == 0x80) ++end;
  const std::string stop = whole.substr(middle, end - middle);
  if (stop != "\xEF\xBF\xBD") {  // a replacement stands for bytes that are not UTF-8
    options.stop = {"no such text", stop};
    EXPECT_EQ(model_->generate("To be", options), whole.substr(0, whole.find(stop)));
  }
  options.stop = {""};
  EXPECT_THROW(model_->generate("To be", options), Error);
}

TEST_F(GeneratorTest, RunsInManyThreadsOnOneSetOfWeights) {
  std::vector<std::string> alone(6), together(6);
  const auto run = [&](size_t i, std::string& text) {
    GenerateOptions options = options_of(i, static_cast<GenerationPolicy>(i % 4));
    options.tokens = 60 + static_cast<int64_t>(i);
    Generator generator = model_->start("Thread " + std::to_string(i), options);
    for (int step = 0; step < 20; ++step) text += generator.next()->text;
    text += rest_of(generator);
    text += std::to_string(model_->score("To be, or not to be").nats);
  };
  for (size_t i = 0; i < alone.size(); ++i) run(i, alone[i]);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < together.size(); ++i) threads.emplace_back([&, i] { run(i, together[i]); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, alone);
}

TEST_F(GeneratorTest, EndsWhenNoTokenCanBeChosen) {
  GenerateOptions options = options_of(1);
  options.logit_masks.assign(1, std::vector<float>(259, -INFINITY));
  Generator generator = model_->start("To be", options);
  EXPECT_THROW(generator.next(), Error);
  EXPECT_TRUE(generator.ended());
  EXPECT_FALSE(generator.next());
  EXPECT_THROW(generator.save(), Error);
}

TEST_F(GeneratorTest, FillsImagesInAnyOrder) {
  ModelConfig config = generation_config();
  config.vocabulary = 259;
  config.context_length = 48;
  config.position_encoding = PositionEncoding::absolute;
  config.position_sizes = {6, 6, 5};
  const Model model = load(config);
  // 4 x 4 pixels; those of the lower half are given, the others come in the model's order.
  TokenPrompt prompt{{sos_token}, {1, 1, 1}};
  const auto add = [&](int32_t x, int32_t y) {
    for (int32_t channel = 0; channel < 3; ++channel)
      prompt.positions.insert(prompt.positions.end(), {x + 2, y + 2, channel + 2});
  };
  for (int32_t y = 2; y < 4; ++y)
    for (int32_t x = 0; x < 4; ++x) {
      add(x, y);
      for (int32_t channel = 0; channel < 3; ++channel) prompt.tokens.push_back(3 + 10 * x + y + channel);
    }
  for (int32_t y = 0; y < 2; ++y)
    for (int32_t x = 0; x < 4; ++x) add(x, y);
  GenerateOptions options = options_of(1);
  options.tokens = 1000;
  Generator generator = model.start(prompt, options);
  while (generator.next()) {
  }
  EXPECT_EQ(generator.tokens().size(), 49u);  // until the positions are used up
  prompt.positions.back() = 5;
  EXPECT_THROW(model.start(prompt, options), Error);
  EXPECT_THROW(model.start("text", options), Error);
}

TEST_F(GeneratorTest, ChecksOptionsBeforeAnyWork) {
  const auto refused = [&](auto change) {
    GenerateOptions options = options_of(1);
    change(options);
    EXPECT_THROW(model_->start("To be", options), Error);
  };
  refused([](GenerateOptions& o) { o.tokens = -1; });
  refused([](GenerateOptions& o) { o.temperature = NAN; });
  refused([](GenerateOptions& o) { o.latents = 1000; });
  refused([](GenerateOptions& o) { o.refill = 9; });
  refused([](GenerateOptions& o) { o.stop_tokens = {259}; });
  refused([](GenerateOptions& o) { o.logit_bias = {{-1, 1.0f}}; });
  refused([](GenerateOptions& o) { o.logit_masks.assign(1, std::vector<float>(260)); });
  refused([](GenerateOptions& o) { o.repetition_penalty = 0; });
  EXPECT_THROW(model_->start(TokenPrompt{{300}, {}}, options_of(1)), Error);
}

TEST_F(GeneratorTest, SaysWhyItEnded) {
  const auto reason = [&](GenerateOptions options) {
    Generator generator = model_->start("To be", options);
    EXPECT_FALSE(generator.finish_reason());
    while (generator.next()) {
    }
    return generator.finish_reason();
  };
  EXPECT_EQ(reason(options_of(1)), FinishReason::length);
  GenerateOptions options = options_of(1);
  options.context_end = ContextEnd::stop;
  EXPECT_EQ(reason(options), FinishReason::context);
  options = options_of(1);
  options.logits = [](std::span<const int32_t>, std::span<double> logits) { logits[100] = 1e6; };
  options.stop_tokens = {100};
  EXPECT_EQ(reason(options), FinishReason::end_token);
  options.stop_tokens = {};
  options.stop = {"aa"};  // id 100
  EXPECT_EQ(reason(options), FinishReason::stop_string);
  Generator generator = model_->start("To be", options_of(1));
  generator.run([](const GeneratedToken&) { return false; });
  EXPECT_EQ(generator.finish_reason(), FinishReason::callback);
  EXPECT_FALSE(generator.next());
}

TEST_F(GeneratorTest, AlternativesAndNextLogitsAreTheDistribution) {
  GenerateOptions options = options_of(3);
  options.alternatives = 4;
  Generator generator = model_->start("To be", options), plain = model_->start("To be", options_of(3));
  for (int i = 0; i < 30; ++i) {
    const std::vector<double> logits = generator.next_logits();
    ASSERT_EQ(logits.size(), 259u);
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit);
    const auto token = generator.next();
    ASSERT_TRUE(token);
    EXPECT_EQ(token->id, plain.next()->id);
    EXPECT_NEAR(token->log_probability, logits[static_cast<size_t>(token->id)] - std::log(sum), 1e-5);
    ASSERT_EQ(token->alternatives.size(), 4u);
    const auto best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    EXPECT_EQ(token->alternatives[0].id, best);
    EXPECT_NEAR(token->alternatives[0].log_probability, logits[static_cast<size_t>(best)] - std::log(sum),
                1e-9);
  }
}

TEST_F(GeneratorTest, GivenTokensBecomePartOfTheSequence) {
  Generator chosen = model_->start("To be", options_of(3));
  for (int i = 0; i < 20; ++i) chosen.next();
  const std::vector<int32_t> ids(chosen.tokens().begin() + 6, chosen.tokens().end());
  Generator given = model_->start("To be", options_of(8));
  double sum = 0;
  for (const int32_t id : ids) sum += given.push(id).log_probability;
  EXPECT_EQ(given.tokens(), chosen.tokens());
  EXPECT_NEAR(sum, chosen.log_probability(), 1e-4);
  // What follows is as after the same tokens chosen.
  EXPECT_EQ(given.next_logits().size(), 259u);
  EXPECT_THROW(given.push(259), Error);
  EXPECT_THROW(given.push(0), Error);
}

TEST_F(GeneratorTest, LogitsCallbacksAddToMasksAndPenalties) {
  GenerateOptions options = options_of(4);
  options.repetition_penalty = 1.3;
  options.logit_masks.assign(2, std::vector<float>(259, 0));
  for (size_t v = 3; v < 131; ++v) options.logit_masks[0][v] = -INFINITY;
  for (size_t v = 131; v < 259; ++v) options.logit_masks[1][v] = -INFINITY;
  const Generator masked = [&] {
    Generator generator = model_->start("To be", options);
    while (generator.next()) {
    }
    return generator;
  }();
  // The same by a callback that forbids what the masks do, and one that changes nothing.
  GenerateOptions by_callback = options;
  by_callback.logit_masks.clear();
  by_callback.logits = [](std::span<const int32_t> tokens, std::span<double> logits) {
    const bool even = (tokens.size() - 6) % 2 == 0;
    for (size_t v = 3; v < 259; ++v)
      if ((v < 131) == even) logits[v] = -INFINITY;
  };
  Generator called = model_->start("To be", by_callback);
  while (called.next()) {
  }
  EXPECT_EQ(called.tokens(), masked.tokens());
  options.logits = [](std::span<const int32_t>, std::span<double>) {};
  Generator untouched = model_->start("To be", options);
  while (untouched.next()) {
  }
  EXPECT_EQ(untouched.tokens(), masked.tokens());
  options.logits = [](std::span<const int32_t>, std::span<double> logits) { logits[5] = NAN; };
  Generator wrong = model_->start("To be", options);
  EXPECT_THROW(wrong.next(), Error);
}

TEST_F(GeneratorTest, ALongPrefillIsGivenUp) {
  ModelConfig config = generation_config();
  config.vocabulary = 259;
  config.context_length = 1 << 17;
  const Model model = load(config);
  Generator generator = model.start(std::string(130'000, 'x'), options_of(1));
  std::thread other([&] { generator.cancel(); });
  EXPECT_FALSE(generator.next());
  other.join();
  EXPECT_EQ(generator.finish_reason(), FinishReason::cancelled);
  EXPECT_EQ(model.start("y", options_of(1)).next()->log_probability,
            model.start("y", options_of(1)).next()->log_probability);  // the model is as it was
}

}  // namespace
}  // namespace perceiver
