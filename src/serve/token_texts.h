// What single tokens of a text model look like.
#pragma once

#include <cstdint>
#include <string>

#include "perceiver/tokenizer.h"

namespace perceiver::serve {

/// All members are for any thread.
class TokenTexts {
 public:
  explicit TokenTexts(const Tokenizer& tokenizer);

  /// The text that the token adds; a byte that is no character alone as "bytes:\xe2", as OpenAI's API writes
  /// it, and special tokens as "<eos>".
  std::string of(int32_t id) const;

 private:
  const Tokenizer tokenizer_;
  TokenSequence before_;  ///< a token before it keeps a piece's leading space
  std::string text_before_;
};

}  // namespace perceiver::serve
