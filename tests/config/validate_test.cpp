// What configuration values demand of each other.
#include "config/validate.h"

#include <gmock/gmock.h>

#include "config/load.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

std::string error_of(const std::vector<std::string>& overrides) {
  try {
    parse_config("", "c.yaml", overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    return error.what();
  }
  return "no error";
}

const std::string absolute = "model.position_encoding=absolute";
const std::string transformer = "model.type=transformer";
const std::string recurrent = "model.type=transformer_xl";

TEST(ConfigRules, DefaultsAreValid) {
  EXPECT_EQ(error_of({}), "no error");
  EXPECT_NO_THROW(validate(Config()));
}

TEST(ConfigRules, Latents) {
  EXPECT_EQ(error_of({"model.latents=2048"}), "no error");
  EXPECT_THAT(error_of({"model.latents=2049"}),
              HasSubstr("model.latents (2049) must not exceed model.context_length (2048)"));
  EXPECT_EQ(error_of({absolute, "model.latents_per_position=2"}), "no error");
  EXPECT_THAT(error_of({absolute, "model.latents_per_position=3"}), HasSubstr("must be a multiple"));
  EXPECT_THAT(error_of({"model.latents_per_position=2"}),
              HasSubstr("needs model.position_encoding: absolute"));
  EXPECT_EQ(error_of({"model.train_input_positions=2048"}), "no error");
  EXPECT_THAT(error_of({"model.train_input_positions=2049"}),
              HasSubstr("model.train_input_positions (2049)"));
}

TEST(ConfigRules, HeadsDivideTheirWidth) {
  EXPECT_THAT(error_of({"model.self_heads=3"}),
              HasSubstr("model.self_heads (3) must divide the latents' channels (256)"));
  EXPECT_THAT(error_of({"model.cross_heads=3"}),
              HasSubstr("cross-attention's channels (256, model.attention_width: kv)"));
  const std::string narrow = "model.latent_channels=96";
  EXPECT_EQ(error_of({narrow, "model.cross_heads=64", "model.rotary_fraction=1"}), "no error");
  EXPECT_THAT(error_of({narrow, "model.cross_heads=64", "model.attention_width=q"}),
              HasSubstr("(96, model.attention_width: q)"));
  EXPECT_EQ(error_of({narrow, "model.cross_heads=48", "model.attention_width=q"}), "no error");
}

TEST(ConfigRules, Attention) {
  for (const char* backend : {"auto", "hopper", "portable", "reference", "cudnn"})
    EXPECT_EQ(error_of({std::string("model.attention=") + backend}), "no error");
  EXPECT_THAT(error_of({"model.attention=flash"}),
              HasSubstr("one of auto, hopper, portable, reference, cudnn"));
  const std::string cudnn = "model.attention=cudnn";
  for (const char* hiding :
       {"model.context_dropout=0.1", "model.latent_dropout=0.1", "model.train_input_positions=100"})
    EXPECT_THAT(error_of({cudnn, hiding}), HasSubstr("model.attention: cudnn cannot hide keys"));
  EXPECT_THAT(error_of({cudnn, absolute, "model.latents_per_position=2"}),
              HasSubstr("model.attention: cudnn needs model.latents_per_position: 1"));
}

TEST(ConfigRules, RotaryPositions) {
  EXPECT_EQ(error_of({"model.self_heads=128"}), "no error");
  EXPECT_THAT(error_of({"model.self_heads=256"}), HasSubstr("the self-attention has 1"));
  EXPECT_THAT(error_of({"model.cross_heads=256"}), HasSubstr("the cross-attention has 1"));
  EXPECT_EQ(error_of({absolute, "model.self_heads=256", "model.cross_heads=256"}), "no error");
  EXPECT_THAT(error_of({"model.position_sizes=[10, 10]"}),
              HasSubstr("has 2 axes but rotary positions have one"));
  EXPECT_EQ(error_of({"model.max_wavelength=2048"}), "no error");
  EXPECT_THAT(error_of({"model.max_wavelength=2047"}),
              HasSubstr("must be 0 or at least model.context_length"));
}

TEST(ConfigRules, AbsolutePositions) {
  EXPECT_EQ(error_of({absolute, "model.position_sizes=[2049]"}), "no error");
  EXPECT_THAT(error_of({absolute, "model.position_sizes=[2048]"}), HasSubstr("at least 2049 rows"));
  EXPECT_EQ(error_of({absolute, "model.position_sizes=[2048]", "model.position_source=terminal_relative"}),
            "no error");
  EXPECT_THAT(error_of({absolute, "model.position_source=terminal_relative_negated"}), HasSubstr("no rows"));
  EXPECT_THAT(error_of({absolute, "model.query_offset=true"}),
              HasSubstr("needs model.position_encoding: rotary"));
  EXPECT_THAT(error_of({absolute, "model.input_channels=255", "model.cross_heads=5", "model.self_heads=5"}),
              HasSubstr("must be even"));
  EXPECT_EQ(error_of({absolute, "model.input_channels=255", "model.cross_heads=5", "model.self_heads=5",
                      "model.position_table=learned"}),
            "no error");
}

TEST(ConfigRules, SeveralAxes) {
  ModelConfig model;
  model.position_encoding = PositionEncoding::absolute;
  model.position_sizes = {34, 34, 5};
  EXPECT_NO_THROW(validate(model));
  model.position_source = PositionSource::terminal_relative;
  EXPECT_THROW(validate(model), Error);
  EXPECT_THAT(error_of({absolute, "data.type=copy", "model.position_sizes=[34, 34, 5]"}),
              HasSubstr("has one position axis"));
}

TEST(ConfigRules, QueryAndExtraCrossAttention) {
  EXPECT_THAT(error_of({"model.shared_learned_query=true"}), HasSubstr("needs model.query_style: learned"));
  EXPECT_EQ(error_of({"model.shared_learned_query=true", "model.query_style=learned"}), "no error");
  EXPECT_EQ(error_of({"model.extra_cross_attention_after=[5, 0]"}), "no error");
  EXPECT_THAT(error_of({"model.extra_cross_attention_after=[6]"}),
              HasSubstr("names layer 6, but layers are 0 to 5"));
  EXPECT_THAT(error_of({"model.extra_cross_attention_after=[1, 1]"}), HasSubstr("names layer 1 twice"));
}

TEST(ConfigRules, Transformer) {
  EXPECT_EQ(parse_config("", "c", {transformer}).model.latents, 2048);
  EXPECT_EQ(error_of({transformer, "model.latents=2048"}), "no error");
  EXPECT_THAT(error_of({transformer, "model.latents=64"}), HasSubstr("leave it out"));
  EXPECT_THAT(error_of({transformer, "model.extra_cross_attention_after=[1]"}), HasSubstr("must be empty"));
  EXPECT_THAT(error_of({transformer, "model.query_style=learned"}), HasSubstr("cannot be learned"));
  EXPECT_THAT(error_of({transformer, absolute, "model.latents_per_position=2"}),
              HasSubstr("latents_per_position: 1"));
  EXPECT_THAT(error_of({transformer, "model.context_dropout=0.5"}), HasSubstr("must be 0"));
  EXPECT_THAT(error_of({transformer, "model.train_input_positions=5"}), HasSubstr("must be 0"));
  for (const std::string key :
       {"cross_heads=2", "cross_widening=2", "attention_width=q", "query_residual=false"})
    for (const std::string& type : {transformer, recurrent})
      EXPECT_THAT(error_of({type, "model." + key}),
                  HasSubstr("has no cross-attention; leave out model.cross_heads"));
  for (const std::string key : {"rotary_fraction=1", "rotary_head_fraction=0.5"})
    EXPECT_THAT(error_of({recurrent, "model." + key}),
                HasSubstr("has relative positions; leave out model.rotary"));
  EXPECT_EQ(error_of({transformer, "model.rotary_fraction=1"}), "no error");
  EXPECT_THAT(error_of({transformer, "eval.latents=64"}), HasSubstr("eval.latents cannot differ"));
}

TEST(ConfigRules, TransformerXl) {
  EXPECT_EQ(parse_config("", "c", {recurrent}).model.latents, 2048);
  EXPECT_EQ(
      error_of({recurrent, "model.memory_length=512", "model.same_length=true", "model.zero_memory=true",
                "model.clamp_length=400", "model.norm_first=true", "model.shared_biases=false",
                "model.mlp_channels=100", "model.attention_dropout=0.1", "model.tied_output=true",
                "model.latent_channels=64", "eval.latents=4096", "eval.memory_length=1024"}),
      "no error");
  EXPECT_THAT(error_of({recurrent, "model.latents=64"}), HasSubstr("model.type: transformer_xl needs"));
  EXPECT_THAT(error_of({recurrent, "model.context_dropout=0.5"}), HasSubstr("transformer_xl has no cross"));
  EXPECT_THAT(error_of({recurrent, "train.crops=even"}), HasSubstr("train.crops must be uniform"));
  for (const char* key : {"same_length", "zero_memory"})
    EXPECT_THAT(error_of({recurrent, std::string("model.") + key + "=true"}), HasSubstr("above 0"));
  EXPECT_THAT(error_of({recurrent, "model.latent_channels=33", "model.self_heads=3"}), HasSubstr("even"));
  for (const char* setting : {"position_encoding=absolute", "position_source=terminal_relative",
                              "position_sizes=[2050]", "learnable_positions=true", "max_wavelength=4000",
                              "rotary_base=10000", "rotary_layers=1", "query_offset=true"})
    EXPECT_THAT(error_of({recurrent, std::string("model.") + setting}), HasSubstr("has relative positions"));
  for (const char* setting : {"biases=none", "latent_dropout=0.1", "attention=reference", "query_style=mlp",
                              "query_projection=false"})
    EXPECT_THAT(error_of({recurrent, std::string("model.") + setting}),
                HasSubstr("model.type: transformer_xl"));
}

TEST(ConfigRules, WhatOnlyATransformerXlHas) {
  for (const char* setting :
       {"memory_length=1", "clamp_length=1", "same_length=true", "shared_biases=false", "norm_first=true",
        "zero_memory=true", "mlp_channels=8", "attention_dropout=0.1"})
    for (const std::string& type : {std::string("model.type=perceiver_ar"), transformer})
      EXPECT_THAT(error_of({type, std::string("model.") + setting}),
                  HasSubstr("are for model.type: transformer_xl"));
  EXPECT_THAT(error_of({"eval.memory_length=8"}), HasSubstr("eval.memory_length (8) needs model.type"));
}

TEST(ConfigRules, EvaluationOfATransformerXl) {
  EXPECT_THAT(error_of({recurrent, "eval.memory_length=8"}),
              HasSubstr("eval.memory_length (8) needs model.memory_length above 0"));
  EXPECT_THAT(error_of({recurrent, "eval.stride=8"}), HasSubstr("eval.stride (8) must be 0"));
}

TEST(ConfigRules, StateOfTheOptimizer) {
  const std::string rounded = "optimizer.state=bfloat16";
  for (const char* type : {"adam", "adamw"})
    EXPECT_EQ(error_of({rounded, std::string("optimizer.type=") + type}), "no error");
  for (const char* type : {"sgd", "lamb", "adafactor", "muon"})
    EXPECT_THAT(error_of({rounded, std::string("optimizer.type=") + type}),
                HasSubstr("optimizer.state: bfloat16 needs optimizer.type: adam or adamw"));
}

TEST(ConfigRules, LatentChannelsFollowInputChannels) {
  EXPECT_EQ(parse_config("model: {input_channels: 64}", "c").model.latent_channels, 64);
  EXPECT_EQ(parse_config("model: {input_channels: 64, latent_channels: 32}", "c").model.latent_channels, 32);
}

TEST(ConfigRules, OnlyARunMayLeaveTheVocabularyToItsData) {
  Config config;
  config.model.vocabulary = 0;
  EXPECT_NO_THROW(validate(config));
  EXPECT_THROW(validate(config.model), Error);
  config.model.vocabulary = 3;
  EXPECT_THROW(validate(config.model), Error);
}

TEST(ConfigRules, Data) {
  EXPECT_THAT(error_of({"data.type=copy", "model.vocabulary=258"}), HasSubstr("too small for bytes"));
  EXPECT_EQ(error_of({"data.copy_length=3000"}), "no error");
  EXPECT_EQ(error_of({"data.type=copy", "data.copy_length=2049"}), "no error");
  EXPECT_THAT(error_of({"data.type=copy", "data.copy_length=2050"}), HasSubstr("data.copy_length (2050)"));
  EXPECT_THAT(error_of({"data.validation_fraction=0.6", "data.test_fraction=0.4"}),
              HasSubstr("leave nothing"));
}

TEST(ConfigRules, Training) {
  EXPECT_EQ(error_of({"train.micro_batches=4"}), "no error");
  EXPECT_THAT(error_of({"train.micro_batches=3"}),
              HasSubstr("train.batch (16) must be a multiple of train.micro_batches (3)"));
  EXPECT_THAT(error_of({"optimizer.nesterov=true"}), HasSubstr("optimizer.type: sgd"));
  EXPECT_EQ(error_of({"optimizer.nesterov=true", "optimizer.type=sgd"}), "no error");
}

TEST(ConfigRules, EarlyStoppingCountsValidations) {
  EXPECT_THAT(error_of({"train.early_stopping=3"}), HasSubstr("needs eval.every above 0"));
  EXPECT_EQ(error_of({"train.early_stopping=3", "eval.every=10"}), "no error");
}

TEST(ConfigRules, Schedule) {
  const std::string steps = "schedule.type=steps";
  EXPECT_EQ(error_of({steps, "schedule.step_boundaries=[1, 5]", "schedule.step_factors=[0.1, 0.5]"}),
            "no error");
  EXPECT_THAT(error_of({steps}), HasSubstr("needs schedule.step_boundaries"));
  EXPECT_THAT(error_of({steps, "schedule.step_boundaries=[1, 5]", "schedule.step_factors=[0.1]"}),
              HasSubstr("must match"));
  EXPECT_THAT(error_of({steps, "schedule.step_boundaries=[5, 5]", "schedule.step_factors=[0.1, 1]"}),
              HasSubstr("must increase"));
  EXPECT_THAT(error_of({"schedule.step_boundaries=[5]", "schedule.step_factors=[1]"}),
              HasSubstr("needs schedule.type: steps"));
  EXPECT_EQ(error_of({"schedule.type=cosine", "schedule.warmup_steps=10", "schedule.decay_steps=11"}),
            "no error");
  EXPECT_THAT(error_of({"schedule.type=cosine", "schedule.warmup_steps=10", "schedule.decay_steps=10"}),
              HasSubstr("must be greater"));
  EXPECT_EQ(error_of({"schedule.type=linear", "schedule.until=20m"}), "no error");
  EXPECT_THAT(error_of({"schedule.until=20m"}), HasSubstr("needs schedule.type: cosine or linear"));
  EXPECT_THAT(error_of({"schedule.type=cosine", "schedule.until=20m", "schedule.decay_steps=10"}),
              HasSubstr("leave out one"));
  EXPECT_THAT(error_of({"schedule.type=cosine", "schedule.until=20"}),
              HasSubstr("schedule.until must be a length of time such as 90s, 20m or 1.5h, or 0, not '20'"));
}

TEST(ConfigRules, Evaluation) {
  EXPECT_EQ(error_of({"eval.latents=512", "eval.stride=512"}), "no error");
  EXPECT_THAT(error_of({"eval.latents=4096"}), HasSubstr("eval.latents (4096) must not exceed"));
  EXPECT_THAT(error_of({"eval.stride=257"}), HasSubstr("eval.stride (257) must not exceed the 256"));
  EXPECT_THAT(error_of({absolute, "model.latents_per_position=2", "eval.latents=5"}),
              HasSubstr("eval.latents (5) must be a multiple"));
  EXPECT_THAT(error_of({absolute, "model.latents_per_position=2", "eval.stride=129"}),
              HasSubstr("exceed the 128 positions"));
}

TEST(ConfigRules, KeysOfTheLatents) {
  const std::string own = "model.latent_keys=latents";
  EXPECT_EQ(error_of({own}), "no error");
  EXPECT_THAT(error_of({own, "model.latent_channels=64"}), HasSubstr("model.input_channels"));
  EXPECT_THAT(error_of({own, "model.query_offset=true"}), HasSubstr("model.query_offset must be false"));
  EXPECT_THAT(error_of({own, "model.train_input_positions=8"}), HasSubstr("model.train_input_positions 0"));
  EXPECT_THAT(error_of({own, "train.context_shards=2"}), HasSubstr("model.latent_keys: tokens"));
  EXPECT_THAT(error_of({own, transformer}), HasSubstr("model.latent_keys must be tokens"));
}

TEST(ConfigRules, OptionsOfOtherImplementations) {
  EXPECT_THAT(error_of({"model.tied_output=true", "model.latent_channels=64"}),
              HasSubstr("model.tied_output"));
  EXPECT_THAT(error_of({"model.query_projection=false", "model.query_style=mlp"}),
              HasSubstr("model.query_style: none"));
  EXPECT_THAT(error_of({"model.rotary_base=0.5"}), HasSubstr("model.rotary_base"));
  EXPECT_THAT(error_of({"model.rotary_base=100", "model.max_wavelength=4096"}), HasSubstr("max_wavelength"));
  EXPECT_THAT(error_of({"model.rotary_layers=9"}), HasSubstr("model.rotary_layers"));
  EXPECT_THAT(error_of({absolute, "model.rotary_layers=1"}), HasSubstr("rotary or both"));
  EXPECT_EQ(error_of({"model.extra_cross_attention_after=[-1, -1, 0]"}), "no error");
  EXPECT_THAT(error_of({"model.context_dropout_from=prefix", "model.train_input_positions=8"}),
              HasSubstr("model.train_input_positions must be 0"));
}

}  // namespace
}  // namespace perceiver
