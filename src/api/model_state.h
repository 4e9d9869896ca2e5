// What a Model and its Generators share: the weights and the tokenizer.
#pragma once

#include "data/text/tokenizer.h"
#include "model/model_file.h"
#include "perceiver/model.h"

namespace perceiver {

struct Model::State {
  LoadedModel loaded;
  std::unique_ptr<Tokenizer> tokenizer;  ///< null for models of anything but text
};

/// The tokenizer of a model of text; null for another.
std::unique_ptr<Tokenizer> tokenizer_of(const ModelMetadata& metadata);
/// Throws `user` for a model of anything but text.
void require_text(const ModelMetadata& metadata);

}  // namespace perceiver
