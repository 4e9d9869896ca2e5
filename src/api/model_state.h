// What a Model and its Generators share: the weights and the tokenizer.
#pragma once

#include "data/text/tokenizer.h"
#include "model/model_file.h"
#include "perceiver/model.h"

namespace perceiver {

struct Model::State {
  LoadedModel loaded;
  std::unique_ptr<Tokenizer> tokenizer;
};

}  // namespace perceiver
