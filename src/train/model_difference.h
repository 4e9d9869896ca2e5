// What differs between a checkpoint's model and the one configured for fine-tuning, and what that prevents.
#pragma once

#include <string>
#include <vector>

#include "data/dataset.h"
#include "model/model_file.h"
#include "perceiver/config.h"

namespace perceiver {

struct ModelDifference {
  std::vector<std::string> harmless;  ///< "model.latents 64 -> 128": the weights suit both
  std::vector<std::string> partial;   ///< some weights do not suit the configured model
  std::vector<std::string> fatal;     ///< no weight can be expected to
};

/// Compares section `model`, key by key, and the meaning of the token ids. Another vocabulary is harmless if
/// the ids mean the same: both models have rows for all of the tokenizer's ids.
ModelDifference compare_models(const ModelMetadata& checkpoint, const ModelConfig& configured,
                               const Dataset& data);

/// Remarks on harmless differences that change what the weights compute, one line each: other wavelengths or
/// position formulas.
std::vector<std::string> position_remarks(const ModelConfig& checkpoint, const ModelConfig& configured);

}  // namespace perceiver
