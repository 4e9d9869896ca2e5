#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "config/load.h"
#include "config/save.h"
#include "config/schema.h"
#include "io/json_document.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

std::string model_error(const std::string& text) {
  try {
    model_from_json(text, "m.safetensors");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    return error.what();
  }
  return "no error";
}

/// A valid configuration that differs from the default in many keys.
Config unusual_config() {
  return parse_config(R"(
threads: 3
model:
  context_length: 100
  latents: 20
  latents_per_position: 2
  input_channels: 48
  latent_channels: 32
  layers: 4
  cross_heads: 3
  activation: gelu
  query_style: learned
  shared_learned_query: true
  extra_cross_attention_after: [0, 3]
  position_encoding: absolute
  position_sizes: [150]
  residual_dropout: 0.1234567890123456789
data: {train: ["a \"b\".txt", "日.txt", "c\nd"], seed: 18446744073709551615}
optimizer: {learning_rate: 1.7976931348623157e308, epsilon: 4.9e-324}
schedule: {type: steps, step_boundaries: [3], step_factors: [0.1]}
)",
                      "unusual");
}

TEST(ConfigJson, WholeConfigurationRoundTrips) {
  for (const Config& config : {parse_config("", "defaults"), unusual_config()}) {
    const Config again = config_from_json(config_to_json(config).dump(), "again");
    for (const ConfigKey& key : config_keys()) EXPECT_EQ(key.get(config), key.get(again)) << key.path;
  }
}

TEST(ConfigJson, ModelRoundTrips) {
  const Config config = unusual_config();
  Config again = config;
  again.model = model_from_json(model_to_json(config.model).dump(), "again");
  for (const ConfigKey& key : config_keys()) EXPECT_EQ(key.get(config), key.get(again)) << key.path;
}

TEST(ConfigJson, IsNestedBySection) {
  const nlohmann::json json = config_to_json(Config());
  EXPECT_EQ(json["device"], "auto");
  EXPECT_EQ(json["model"]["latents"], 256);
  EXPECT_EQ(json["model"], model_to_json(ModelConfig()));
}

TEST(ConfigJson, MissingKeysKeepTheirDefaults) {
  const ModelConfig model = model_from_json(R"({"layers": 2})", "m");
  EXPECT_EQ(model.layers, 2);
  EXPECT_EQ(model.latents, ModelConfig().latents);
  EXPECT_EQ(model.latent_channels, 256);
}

TEST(ConfigJson, UntrustedModelsAreChecked) {
  EXPECT_EQ(model_error("{}"), "no error");
  EXPECT_THAT(model_error(""), StartsWith("m.safetensors: not valid JSON"));
  EXPECT_THAT(model_error("{} x"), HasSubstr("not valid JSON"));
  EXPECT_THAT(model_error("[]"), HasSubstr("must be a mapping"));
  EXPECT_THAT(model_error(R"({"latents": "8"})"), HasSubstr("model.latents must be an integer"));
  EXPECT_THAT(model_error(R"({"latents": 8.0})"), HasSubstr("model.latents must be an integer"));
  EXPECT_THAT(model_error(R"({"latents": -8})"), HasSubstr("not '-8'"));
  EXPECT_THAT(model_error(R"({"latents": 1e400})"), HasSubstr("m.safetensors: not valid JSON"));
  EXPECT_THAT(model_error(R"({"latents": null})"), HasSubstr("not nothing"));
  EXPECT_THAT(model_error(R"({"latents": true})"), HasSubstr("not 'true'"));
  EXPECT_THAT(model_error(R"({"latents": 4096})"), HasSubstr("must not exceed model.context_length"));
  EXPECT_THAT(model_error(R"({"latents": 8, "latents": 8})"), HasSubstr("'latents' appears twice"));
  EXPECT_THAT(model_error(R"({"latens": 8})"),
              AllOf(HasSubstr("'model.latens'"), HasSubstr("'model.latents'")));
  EXPECT_THAT(model_error(R"({"query_residual": 1})"), HasSubstr("true or false"));
  EXPECT_THAT(model_error(R"({"activation": "tanh"})"), HasSubstr("one of identity"));
  EXPECT_THAT(model_error("{\"a\": \"\\ud800\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(model_error(std::string("{}\0", 3)), HasSubstr("control character"));
  EXPECT_THAT(model_error(std::string(2'000'000, ' ')), HasSubstr("1048576"));
}

TEST(ConfigJson, ManyShortListsAreRefused) {
  std::string text = "{\"position_sizes\": [0";
  for (int i = 0; i < 200'000; ++i) text += ",0";
  EXPECT_THAT(model_error(text + "]}"), HasSubstr("more than 100000 values"));
}

}  // namespace
}  // namespace perceiver
