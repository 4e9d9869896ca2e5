// What copies of a Tokenizer share.
#pragma once

#include <memory>
#include <string>

#include "data/modality.h"
#include "data/text/tokenizer.h"
#include "perceiver/tokenizer.h"

namespace perceiver {

struct Tokenizer::State {
  std::unique_ptr<Modality> modality;
  std::unique_ptr<TextTokenizer> text;  ///< of text and the copy task, for streams of tokens; else null
  std::string serialized;
  TokenizerInfo info;
};

}  // namespace perceiver
