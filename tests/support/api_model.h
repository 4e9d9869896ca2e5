// Small models as users of the library have them.
#pragma once

#include <map>
#include <string>

#include "model/model_file.h"
#include "perceiver/model.h"
#include "tests/support/generation_model.h"
#include "tests/support/temp_folder.h"

namespace perceiver::testing {

/// A varied model for data of that kind, through a file.
inline Model api_model(const std::string& modality = "text",
                       const std::map<std::string, std::string>& options = {}, int threads = 1,
                       int64_t context_length = 24) {
  const Tokenizer tokenizer = Tokenizer::open(modality, options);
  ModelConfig config = generation_config();
  config.vocabulary = tokenizer.info().vocabulary;
  config.context_length = context_length;
  if (!tokenizer.info().position_sizes.empty()) {
    config.position_encoding = PositionEncoding::absolute;
    config.position_sizes = tokenizer.info().position_sizes;
  }
  ModelMetadata metadata;
  metadata.model = config;
  metadata.modality = modality;
  metadata.tokenizer = tokenizer.serialized();
  metadata.step = 7;
  const TempFolder folder;
  const std::string path = folder.path("model.safetensors");
  save_model(path, *varied_model(config, DType::f32), metadata);
  return Model::load(path, {.device = "cpu", .threads = threads});
}

}  // namespace perceiver::testing
