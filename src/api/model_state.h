// What a Model and its Generators share: the weights and the tokenizer.
#pragma once

#include "api/tokenizer_state.h"
#include "data/sample_files.h"
#include "model/model_file.h"
#include "perceiver/model.h"

namespace perceiver {

struct Model::State {
  /// `path`: of the file it was loaded from, or empty.
  static std::shared_ptr<const State> of(LoadedModel model, const std::string& path);
  State(LoadedModel model, Tokenizer coder) : loaded(std::move(model)), tokenizer(std::move(coder)) {}

  /// For streams of text; null for other data.
  const TextTokenizer* text() const { return tokenizer.state_->text.get(); }
  const Modality& modality() const { return *tokenizer.state_->modality; }
  /// Ids that start with SOS, and positions as in TokenPrompt, for Tokenizer::decode.
  TokenSequence sequence_of(const std::vector<int32_t>& tokens, const std::vector<int32_t>& positions) const {
    return generated_sequence(modality(), {tokens.begin() + 1, tokens.end()}, positions);
  }

  LoadedModel loaded;
  Tokenizer tokenizer;
  ModelInfo info;
};

}  // namespace perceiver
