#include "serve/token_texts.h"

#include <fmt/format.h>

#include "perceiver/special_tokens.h"

namespace perceiver::serve {
namespace {

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
  const int32_t byte = id - special_tokens;
  if (tokenizer_.info().name == "bytes" && byte >= 0x80) return fmt::format("bytes:\\x{:02x}", byte);
  TokenSequence sequence = before_;
  sequence.ids.push_back(id);
  return std::get<std::string>(tokenizer_.decode(sequence)).substr(text_before_.size());
}

}  // namespace perceiver::serve
