#include "perceiver/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "perceiver/error.h"
#include "tests/support/api_model.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using namespace testing;
using ::testing::HasSubstr;

/// Some data of each kind.
Content content_of(const std::string& modality) {
  if (modality == "image") {
    Image image(4, 4, 3);
    std::iota(image.pixels.begin(), image.pixels.end(), uint8_t{1});
    return image;
  }
  if (modality == "music") return Notes{{0, 400'000, 60, 63}, {100'000, 900'000, 64, 31}};
  if (modality == "audio") return Sound{{0.1f, 0.2f, -0.3f, 0.9f, 0.0f}, 8000};
  if (modality == "codec") return Codes{2, {1, 2, 3, 4, 0, 1}};
  if (modality == "tokens") return TokenSequence{.ids = {3, 5, 7, 9}, .units = 4};
  return "To be, or not to be";
}

std::map<std::string, std::string> options_of(const std::string& modality) {
  if (modality == "image") return {{"size", "4"}};
  if (modality == "audio") return {{"sample_rate", "8000"}};
  if (modality == "codec") return {{"levels", "2"}, {"codes", "5"}};
  if (modality == "tokens") return {{"values", "20"}};
  return {};
}

TEST(PublicModel, RefusesWhatIsNoCheckpoint) {
  EXPECT_THROW(Model::load("/no/such/folder"), Error);
}

TEST(PublicModel, OpensGeneratesAndScoresEveryModality) {
  for (const std::string modality : {"text", "image", "music", "audio", "codec", "tokens"}) {
    SCOPED_TRACE(modality);
    const Model model = api_model(modality, options_of(modality));
    EXPECT_EQ(model.tokenizer().info().modality, modality);
    EXPECT_EQ(model.info().step, 7);
    EXPECT_EQ(model.info().device, "cpu");
    EXPECT_EQ(model.info().precision, "f32");
    EXPECT_EQ(model.info().parameters, model.parameter_count());
    const Content content = content_of(modality);
    const Score score = model.score(content);
    EXPECT_EQ(static_cast<size_t>(score.tokens), score.log_probabilities.size());
    EXPECT_EQ(score.bytes, model.tokenizer().encode(content).units);
    double sum = 0;
    for (const float log_probability : score.log_probabilities) sum -= log_probability;
    EXPECT_NEAR(sum, score.nats, 1e-4 * score.nats);
    const auto ids = static_cast<int64_t>(model.tokenizer().encode(content).ids.size());
    EXPECT_EQ(score.tokens, ids + (model.tokenizer().info().ends ? 1 : 0));

    Generator generator = model.start(model.tokenizer().prompt(), {.tokens = 12, .seed = 4});
    while (generator.next()) {
    }
    const Content made = model.tokenizer().decode(generator.sequence());
    EXPECT_EQ(made.index(), content.index());
  }
}

TEST(PublicModel, ScoresAreThoseOfGeneration) {
  const Model model = api_model();
  Generator generator = model.start("To", {.tokens = 12, .seed = 4, .ignore_eos = true});
  std::vector<double> chosen;
  while (const auto token = generator.next()) chosen.push_back(token->log_probability);
  const TokenSequence document = generator.sequence();
  // As long as no latents are dropped, each token is predicted from the same tokens with all latents.
  const Score score = model.score(document, {.stride = 1});
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(score.log_probabilities[2 + i], chosen[i], 1e-4) << i;
}

TEST(PublicModel, ScoresManyDocumentsAsEachAlone) {
  const Model model = api_model();
  std::vector<TokenSequence> documents;
  for (const int length : {1, 60, 7, 0, 33})
    documents.push_back(model.tokenizer().encode(std::string(static_cast<size_t>(length), 'a') + "b"));
  const std::vector<Score> together = model.score(documents, {.stride = 3, .batch = 4});
  ASSERT_EQ(together.size(), documents.size());
  for (size_t i = 0; i < documents.size(); ++i) {
    const Score alone = model.score(documents[i], {.stride = 3, .batch = 1});
    EXPECT_NEAR(together[i].nats, alone.nats, 1e-5 * alone.nats);
    EXPECT_EQ(together[i].tokens, alone.tokens);
    EXPECT_EQ(together[i].bytes, alone.bytes);
  }
  EXPECT_TRUE(model.score(std::span<const TokenSequence>()).empty());
  documents[2].ids[0] = 300;
  EXPECT_THAT(message_of([&] { model.score(documents); }),
              HasSubstr("document 2: id 0 of the sequence is 300"));
}

TEST(PublicModel, EmbedsDocumentsByTheirFinalLatents) {
  const Model model = api_model();
  const Embedding short_one = model.embed("abc"), long_one = model.embed(std::string(100, 'x') + "abc");
  EXPECT_EQ(short_one.latents, 4);  // SOS, a, b, c
  EXPECT_EQ(long_one.latents, 8);
  EXPECT_EQ(short_one.channels, 16);
  EXPECT_EQ(short_one.values.size(), 64u);
  double square = 0;
  for (const float value : long_one.last()) square += value * value;
  EXPECT_GT(square, 0);
  EXPECT_EQ(model.embed("abc").values, short_one.values);
  EXPECT_NE(model.embed("abd").values, short_one.values);
  // Latents are causal: those before the last token do not depend on it.
  const Embedding other = model.embed("abd");
  for (size_t i = 0; i < 48; ++i) EXPECT_NEAR(other.values[i], short_one.values[i], 1e-5);
}

TEST(PublicModel, IsCreatedSavedAndLoaded) {
  const Tokenizer images = Tokenizer::open("image", {{"size", "4"}});
  ModelConfig config = generation_config();
  config.vocabulary = 0;
  config.context_length = 48;
  config.position_encoding = PositionEncoding::absolute;
  config.position_sizes = {6, 6, 5};
  const Model made = Model::create(config, images, 5, {.device = "cpu", .threads = 1});
  EXPECT_EQ(made.config().vocabulary, 259);
  const TempFolder folder;
  made.save(folder.path("new.safetensors"));
  const Model again = Model::load(folder.path("new.safetensors"), {.device = "cpu", .threads = 1});
  EXPECT_EQ(again.tokenizer().info().width, 4);
  EXPECT_EQ(again.info().path, folder.path("new.safetensors"));
  const Content image = content_of("image");
  EXPECT_EQ(again.score(image).nats, made.score(image).nats);
  config.zero_initial_logits = true;
  EXPECT_NEAR(Model::create(config, images, 5, {.device = "cpu"}).score(image).nats, 48 * std::log(259),
              1e-3);
  config.position_sizes = {6, 6};
  EXPECT_THAT(message_of([&] { Model::create(config, images); }), HasSubstr("axes"));
  config.position_sizes = {6, 6, 5};
  config.latents = 49;
  EXPECT_THAT(message_of([&] { Model::create(config, images); }), HasSubstr("latents"));
}

/// Pixels have positions of three axes, the model none.
TEST(PublicModel, ATransformerXlOfImagesScoresEmbedsAndCompletes) {
  ModelConfig config;
  config.type = ModelType::transformer_xl;
  config.vocabulary = 0;
  config.context_length = config.latents = 16;
  config.memory_length = 32;
  config.input_channels = 16;
  config.layers = 1;
  config.self_heads = 2;
  const Tokenizer images = Tokenizer::open("image", {{"size", "4"}});
  const Model model = Model::create(config, images, 5, {.device = "cpu", .threads = 1});
  const Image image = std::get<Image>(content_of("image"));
  EXPECT_EQ(model.score(image).tokens, 48);
  const Embedding embedding = model.embed(image);
  EXPECT_EQ(embedding.latents, 16);
  EXPECT_EQ(embedding.channels, 16);
  std::vector<uint8_t> known(16, 1);
  known[15] = 0;
  Generator generator = model.start(model.tokenizer().complete(image, known), {.seed = 3});
  while (generator.next()) {
  }
  const Image completed = std::get<Image>(model.tokenizer().decode(generator.sequence()));
  for (size_t i = 0; i < 45; ++i) EXPECT_EQ(completed.pixels[i], image.pixels[i]) << i;
}

TEST(PublicModel, CompletesAnImage) {
  const Model model = api_model("image", {{"size", "4"}}, 1, 48);
  const Image image = std::get<Image>(content_of("image"));
  std::vector<uint8_t> known(16, 1);
  for (size_t i = 4; i < 12; ++i) known[i] = 0;
  Generator generator = model.start(model.tokenizer().complete(image, known), {.seed = 3});
  while (generator.next()) {
  }
  const Image whole = std::get<Image>(model.tokenizer().decode(generator.sequence()));
  EXPECT_EQ(generator.finish_reason(), FinishReason::length);
  EXPECT_EQ(generator.tokens().size(), 49u);
  int changed = 0;
  for (int64_t y = 0; y < 4; ++y)
    for (int64_t x = 0; x < 4; ++x)
      for (int64_t c = 0; c < 3; ++c) {
        const bool same = whole.at(x, y)[c] == image.at(x, y)[c];
        EXPECT_TRUE(same || known[static_cast<size_t>(4 * y + x)] == 0);
        changed += same ? 0 : 1;
      }
  EXPECT_GT(changed, 0);
}

TEST(PublicModel, NamesWrongDevices) {
  const Model model = api_model();
  const TempFolder folder;
  const std::string path = folder.path("m.safetensors");
  model.save(path);
  EXPECT_THAT(message_of([&] { Model::load(path, {.device = "gpu"}); }),
              HasSubstr("one of cpu, cuda, cuda:N, auto"));
  EXPECT_THAT(message_of([&] { Model::load(path, {.device = "cuda:x"}); }), HasSubstr("the number of a GPU"));
  EXPECT_THAT(message_of([&] { Model::load(path, {.device = "cpu", .threads = -1}); }),
              HasSubstr("-1 threads"));
}

}  // namespace
}  // namespace perceiver
