// Text to token ids and back. A tokenizer knows nothing about documents: the dataset adds SOS and EOS.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/special_tokens.h"

namespace perceiver {

class TextTokenizer {
 public:
  virtual ~TextTokenizer() = default;

  /// Number of ids, including PAD, EOS and SOS.
  virtual int64_t vocabulary() const = 0;
  /// Short name of the kind, e.g. "bytes".
  virtual std::string name() const = 0;
  /// Everything `make_tokenizer` needs to recreate the tokenizer; stored in the metadata of model files.
  virtual std::string serialized() const = 0;
  /// Token ids of `text`, without SOS and EOS.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  /// The bytes of `ids`; PAD, EOS and SOS decode to nothing. Throws `user` for an id outside the vocabulary.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
};

/// The tokenizer described by `serialized`; throws `user` for an unknown description.
std::unique_ptr<TextTokenizer> make_tokenizer(std::string_view serialized);

}  // namespace perceiver
