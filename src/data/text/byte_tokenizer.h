// The byte-level vocabulary of 259 ids: 0 PAD, 1 EOS, 2 SOS, byte b is id b + 3.
#pragma once

#include "data/text/tokenizer.h"

namespace perceiver {

inline constexpr int64_t byte_vocabulary = 256 + special_tokens;

constexpr int32_t byte_token(uint8_t byte) {
  return byte + special_tokens;
}

class ByteTokenizer final : public TextTokenizer {
 public:
  static constexpr std::string_view kind = "bytes";
  /// `serialized` must be exactly `kind`.
  static std::unique_ptr<TextTokenizer> make(std::string_view serialized);

  int64_t vocabulary() const override { return byte_vocabulary; }
  std::string name() const override { return std::string(kind); }
  std::string serialized() const override { return std::string(kind); }
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
};

}  // namespace perceiver
