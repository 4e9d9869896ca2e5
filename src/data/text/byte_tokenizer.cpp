#include "data/text/byte_tokenizer.h"

#include "base/check.h"

namespace perceiver {

std::unique_ptr<TextTokenizer> ByteTokenizer::make(std::string_view serialized) {
  if (serialized != kind)
    throw_user("a '{}' tokenizer takes no parameters, but {} bytes follow", kind,
               serialized.size() - kind.size());
  return std::make_unique<ByteTokenizer>();
}

std::vector<int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size());
  for (const char c : text) ids.push_back(byte_token(static_cast<uint8_t>(c)));
  return ids;
}

std::string ByteTokenizer::decode(std::span<const int32_t> ids) const {
  std::string bytes;
  bytes.reserve(ids.size());
  for (const int32_t id : ids) {
    if (id < 0 || id >= byte_vocabulary)
      throw_user("token id {} is outside the byte vocabulary (0 to {})", id, byte_vocabulary - 1);
    if (id >= special_tokens) bytes.push_back(static_cast<char>(id - special_tokens));
  }
  return bytes;
}

}  // namespace perceiver
