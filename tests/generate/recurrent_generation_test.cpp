// Cached generation with Transformer-XL against passes over segments with a memory: the prompt in segments,
// then one token at a time.
#include <gtest/gtest.h>

#include "generate/engine.h"
#include "model/segment_memory.h"
#include "tests/support/generation_model.h"
#include "tests/support/recurrent_model.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::recurrent_config;

/// Reads tokens in segments and gives the logits after the last.
class SegmentReader {
 public:
  explicit SegmentReader(const PerceiverAR& model)
      : model_(model),
        memory_(SegmentMemory::make(model.context(), model.type(), model.config(), 1,
                                    model.config().memory_length)) {}

  std::vector<double> read(const std::vector<int32_t>& tokens) {
    Batch batch;
    const auto length = static_cast<int64_t>(tokens.size());
    batch.resize(1, length, 1);
    batch.tokens = tokens;
    batch.lengths[0] = static_cast<int32_t>(length);
    batch.preceding.assign(1, read_);
    PassOptions options;
    if (memory_.length > 0) options.memory = &memory_;
    const Tensor logits = model_.logits(model_.prepare(batch, options));
    memory_.commit(model_.context());
    read_ += length;
    const int64_t vocabulary = model_.config().vocabulary;
    return host_doubles(logits.view((length - 1) * vocabulary, {vocabulary}));
  }

  std::vector<double> read_prompt(const std::vector<int32_t>& tokens) {
    std::vector<double> logits;
    const int64_t segment = model_.config().context_length;
    for (int64_t first = 0; first < static_cast<int64_t>(tokens.size()); first += segment) {
      const int64_t end = std::min(first + segment, static_cast<int64_t>(tokens.size()));
      logits = read({tokens.begin() + first, tokens.begin() + end});
    }
    return logits;
  }

 private:
  const PerceiverAR& model_;
  SegmentMemory memory_;
  int64_t read_ = 0;
};

void check_generation(const ModelConfig& config, int64_t prompt, DType type = DType::f64) {
  SCOPED_TRACE(::testing::Message() << "prompt of " << prompt);
  const auto model = testing::varied_model(config, type);
  SegmentReader reader(*model);
  EngineOptions options;
  options.slots = 3;
  Engine engine(*model, options);
  Sequence sequence;
  sequence.tokens = testing::prompt_of(prompt);
  engine.admit(1, sequence);
  std::vector<double> expected = reader.read_prompt(sequence.tokens);
  for (int step = 0; step < 40; ++step) {
    engine.compute();
    const std::vector<double> logits = engine.logits(1);
    ASSERT_LE(testing::difference(logits, expected), type == DType::f64 ? 1e-10 : 2e-4) << "step " << step;
    const int32_t token = testing::greedy(logits);
    engine.push(1, token);
    expected = reader.read({token});
    if (step == 5) {  // another sequence beside it changes nothing
      Sequence other;
      other.tokens = testing::prompt_of(4, 2);
      engine.admit(2, other);
    }
    if (step > 5) {
      engine.compute();
      engine.push(2, testing::greedy(engine.logits(2)));
    }
  }
  EXPECT_EQ(engine.passes(), 2);
  EXPECT_FALSE(engine.ended(1));
}

TEST(RecurrentGeneration, CachesAreMemories) {
  for (const int64_t prompt : {1, 5, 6, 7, 12, 31}) check_generation(recurrent_config(), prompt);
}

TEST(RecurrentGeneration, CachesAreMemoriesInFloat32) {
  check_generation(recurrent_config(), 9, DType::f32);
}

TEST(RecurrentGeneration, CachesAreMemoriesForEveryOption) {
  std::vector<ModelConfig> configs(8, recurrent_config());
  configs[0].norm_first = true;
  configs[1].same_length = true;
  configs[2].clamp_length = 3;
  configs[3].zero_memory = true;
  configs[4].zero_memory = configs[4].norm_first = true;
  configs[5].memory_length = 0;
  configs[6].shared_biases = false;
  configs[6].latent_channels = 24;
  configs[6].head_channels = 10;
  configs[6].mlp_channels = 20;
  configs[6].output_norm = true;
  configs[7].memory_length = 20;
  configs[7].clamp_length = 9;
  configs[7].same_length = true;
  for (const ModelConfig& config : configs)
    for (const int64_t prompt : {3, 15}) check_generation(config, prompt);
}

TEST(RecurrentGeneration, ASavedSequenceGoesOn) {
  const auto model = testing::varied_model(recurrent_config());
  Engine engine(*model, {});
  Sequence sequence;
  sequence.tokens = testing::prompt_of(13);
  engine.admit(0, sequence);
  const auto advance = [](Engine& e) {
    e.compute();
    e.push(0, testing::greedy(e.logits(0)));
  };
  for (int step = 0; step < 12; ++step) advance(engine);
  Engine::Storage storage;
  SafetensorsWriter writer;
  engine.save(0, writer, storage);
  Engine second(*model, {});
  const std::string saved = writer.file();
  second.restore(0, SafetensorsFile::parse(std::as_bytes(std::span(saved)), "the saved sequence"));
  for (int step = 0; step < 12; ++step) advance(engine), advance(second);
  EXPECT_EQ(engine.tokens(0), second.tokens(0));
  EXPECT_EQ(engine.logits(0), second.logits(0));
}

/// Tokens of pictures come with positions of several axes, which say nothing to this model.
TEST(RecurrentGeneration, PositionsOfTheDataDoNotMatter) {
  const auto model = testing::varied_model(recurrent_config());
  EngineOptions options;
  options.slots = 2;
  Engine engine(*model, options);
  Sequence sequence;
  sequence.tokens = testing::prompt_of(5);
  engine.admit(0, sequence);
  for (int32_t i = 0; i < 3 * 16; ++i) sequence.positions.push_back(1 + i * i % 4000);
  engine.admit(1, sequence);
  for (int step = 0; step < 10; ++step) {
    engine.compute();
    ASSERT_EQ(engine.logits(0), engine.logits(1));
    for (const int64_t slot : {0, 1}) engine.push(slot, testing::greedy(engine.logits(slot)));
  }
}

TEST(RecurrentGeneration, RefusesOtherPolicies) {
  const auto model = testing::varied_model(recurrent_config());
  EngineOptions options;
  options.policy = GenerationPolicy::exact;
  EXPECT_NE(message_of([&] { Engine(*model, options); }).find("its policy is stream"), std::string::npos);
}

}  // namespace
}  // namespace perceiver
