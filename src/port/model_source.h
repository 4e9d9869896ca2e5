// Opens what people have: a Hugging Face folder, a Lightning checkpoint, a PyTorch state dict, a pickled dict
// of arrays, a safetensors file; and finds the configuration that goes with it.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "io/tensor_source.h"

namespace perceiver {

struct ModelSource {
  std::filesystem::path file;  ///< that holds the weights
  std::string kind;            ///< "Lightning checkpoint"
  std::shared_ptr<const TensorSource> tensors;
  nlohmann::json configuration;     ///< of the project that wrote it; null if there is none
  std::string configuration_from;   ///< "config.json"
  std::filesystem::path tokenizer;  ///< a SentencePiece model beside it; may be empty
  std::string tokenizer_class;      ///< of Hugging Face's tokenizer_config.json, or empty
};

/// `configuration` is a JSON file that replaces what the source has; may be empty. Throws `user` for what is
/// none of these, saying what it is.
ModelSource open_model_source(const std::filesystem::path& path, const std::filesystem::path& configuration);

}  // namespace perceiver
