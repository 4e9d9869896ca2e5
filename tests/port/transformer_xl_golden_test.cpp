// Transformer-XL against golden files, on the CPU.
#include "tests/support/recurrent_golden.h"

#include <gtest/gtest.h>

#include "config/validate.h"
#include "model/model_file.h"
#include "port/export.h"
#include "tests/support/recurrent_model.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

constexpr testing::RecurrentTolerances kExact{3e-6, 5e-6, 3e-6, 1e-5}, kSingle{1e-5, 1e-5, 4e-6, 4e-5};

TEST(TransformerXLGolden, Float64) {
  testing::check_recurrent_files(DType::f64, DeviceContext::cpu(2), kExact);
}

TEST(TransformerXLGolden, Float32) {
  testing::check_recurrent_files(DType::f32, DeviceContext::cpu(2), kSingle);
}

TEST(TransformerXLGolden, RecomputedBlocks) {
  testing::check_recurrent_files(DType::f64, DeviceContext::cpu(2), kExact, Recompute::block);
}

TEST(TransformerXLGolden, RecomputedBranches) {
  testing::check_recurrent_files(DType::f64, DeviceContext::cpu(2), kExact, Recompute::attention_mlp);
}

/// A model made here goes to Hugging Face's files and comes back with the same values.
TEST(TransformerXLPort, ExportsWhatItImports) {
  const TempFolder folder;
  for (const bool variant : {false, true}) {
    ModelConfig config = testing::recurrent_config();
    config.zero_memory = true;
    config.norm_first = variant;
    config.shared_biases = !variant;
    config.tied_output = !variant;
    if (variant) config.input_channels = 10;
    resolve(config);
    LoadedModel loaded;
    loaded.metadata.model = config;
    loaded.metadata.modality = "tokens";
    loaded.model = std::make_unique<PerceiverAR>(config, DeviceContext::cpu(1), DType::f32);
    loaded.model->parameters().initialize(4);
    const std::filesystem::path path = folder.path(variant ? "b" : "a");
    export_model(loaded, "transfo-xl", path);
    const ImportedModel back = import_model(path, {}, DeviceContext::cpu(1), DType::f32);
    // Their ids are those here from 3 on, or all of them: PAD, EOS and SOS have rows like any other.
    for (const ParameterInfo& info : loaded.model->parameters().infos()) {
      if (info.name == "token_embedding.weight" || info.name.starts_with("output.linear")) continue;
      const ParameterInfo* theirs = back.model->parameters().find(info.name);
      ASSERT_NE(theirs, nullptr) << info.name;
      EXPECT_EQ(host_doubles(back.model->parameters().value(*theirs)),
                host_doubles(loaded.model->parameters().value(info)))
          << info.name;
    }
  }
}

TEST(TransformerXLPort, RefusesWhatTheirsCannotSay) {
  ModelConfig config = testing::recurrent_config();
  resolve(config);
  LoadedModel loaded;
  loaded.metadata.model = config;
  loaded.metadata.modality = "tokens";
  loaded.model = std::make_unique<PerceiverAR>(config, DeviceContext::cpu(1), DType::f32);
  loaded.model->parameters().initialize(4);
  const TempFolder folder;
  EXPECT_NE(
      message_of([&] { export_model(loaded, "transfo-xl", folder.path("a")); }).find("model.zero_memory"),
      std::string::npos);
  EXPECT_NE(message_of([&] { export_model(loaded, "krasserm", folder.path("b")); }).find("transformer_xl"),
            std::string::npos);
}

}  // namespace
}  // namespace perceiver
