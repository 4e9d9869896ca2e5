// A model may have more ids than its data: those that stand for nothing are never generated.
#include <gmock/gmock.h>

#include <set>

#include "data/sample_files.h"
#include "generate/generate.h"
#include "perceiver/error.h"
#include "tests/support/engine_checks.h"

namespace perceiver {
namespace {

using namespace testing;

/// Tokens drawn from a nearly uniform distribution over the model's 29 ids.
std::set<int32_t> drawn(EngineOptions options, bool biased) {
  const auto model = varied_model(generation_config());
  fill(model->parameters().values(), [](int64_t i) { return 1e-3 * static_cast<double>(i % 7); });
  model->parameters().publish();
  Engine engine(*model, options);
  GenerationRequest request;
  request.prompt = prompt_of(3);
  request.tokens = 400;
  request.ignore_eos = true;
  if (biased) request.token_biases.emplace_back(28, 5.0f);
  const std::vector<Completion> completions = generate(engine, {request});
  return {completions[0].tokens.begin(), completions[0].tokens.end()};
}

TEST(UnusedIds, AreNeverDrawn) {
  EXPECT_TRUE(drawn({}, false).contains(28));
  EngineOptions options;
  options.token_ids = 20;
  for (const bool biased : {false, true}) {
    const std::set<int32_t> ids = drawn(options, biased);
    EXPECT_EQ(ids.size(), 17u);  // 3 to 19
    EXPECT_EQ(*ids.rbegin(), 19);
  }
}

TEST(UnusedIds, AreThoseThatTheTokenizerDoesNotHave) {
  ModelMetadata metadata;
  EXPECT_EQ(suited_options({}, metadata).token_ids, 259);
  metadata.modality = "copy";
  EXPECT_EQ(suited_options({}, metadata).token_ids, 259);
  metadata.modality = "image";
  metadata.tokenizer = open_modality("image", {{"size", "4"}})->tokenizer();
  EXPECT_EQ(suited_options({}, metadata).token_ids,
            restore_modality("image", metadata.tokenizer)->format().vocabulary);
}

TEST(UnusedIds, AModelWithFewerIdsThanItsTokenizerIsRefused) {
  const auto model = varied_model(generation_config());
  EngineOptions options;
  options.token_ids = 30;
  EXPECT_THROW(Engine(*model, options), Error);
}

}  // namespace
}  // namespace perceiver
