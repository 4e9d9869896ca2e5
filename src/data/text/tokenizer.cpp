#include "data/text/tokenizer.h"

#include "base/check.h"
#include "base/text.h"
#include "data/text/byte_tokenizer.h"
#include "data/text/sentencepiece_tokenizer.h"

namespace perceiver {
namespace {

using Maker = std::unique_ptr<TextTokenizer> (*)(std::string_view serialized);

/// One line per kind. The serialized form is the name, optionally followed by a line feed and parameters.
struct Kind {
  std::string_view name;
  Maker make;
};

constexpr Kind kinds[] = {
    {ByteTokenizer::kind, ByteTokenizer::make},
    {SentencePieceTokenizer::kind, SentencePieceTokenizer::make},
};

}  // namespace

std::unique_ptr<TextTokenizer> make_tokenizer(std::string_view serialized) {
  const std::string_view name = serialized.substr(0, serialized.find('\n'));
  for (const Kind& kind : kinds) {
    if (kind.name == name) return kind.make(serialized);
  }
  throw_user("unknown tokenizer {}: this version knows bytes and sentencepiece; is it a text model?",
             quote(name));
}

}  // namespace perceiver
