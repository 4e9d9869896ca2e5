#include "serve/token_texts.h"

#include <fmt/format.h>

#include "perceiver/special_tokens.h"

namespace perceiver::serve {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";  // U+FFFD

std::string special(int32_t id) {
  if (id == eos_token) return "<eos>";
  return id == sos_token ? "<sos>" : "<pad>";
}

}  // namespace

TokenTexts::TokenTexts(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  before_ = tokenizer_.encode(std::string("a"));
  text_before_ = std::get<std::string>(tokenizer_.decode(before_));
}

std::string TokenTexts::of(int32_t id) const {
  if (id < special_tokens) return special(id);
  if (id >= tokenizer_.info().vocabulary) return fmt::format("<{}>", id);
  TokenSequence sequence = before_;
  sequence.ids.push_back(id);
  std::string text = std::get<std::string>(tokenizer_.decode(sequence)).substr(text_before_.size());
  if (text == kReplacement && tokenizer_.info().name == "bytes")
    return fmt::format("bytes:\\x{:02x}", id - special_tokens);
  return text;
}

}  // namespace perceiver::serve
