// The public tokenizer without modalities: bodies of requests are what is fuzzed, files and values have
// targets of their own.
#include "perceiver/error.h"
#include "perceiver/tokenizer.h"

namespace perceiver {

struct Tokenizer::State {
  TokenizerInfo info;
};

Tokenizer::Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}

/// "text", "music" or "image" (4 x 4 pixels).
Tokenizer Tokenizer::restore(const std::string& modality, const std::string&) {
  auto state = std::make_shared<State>();
  state->info.modality = modality;
  state->info.vocabulary = 259;
  state->info.writes = {".mid", ".wav"};
  if (modality == "image") state->info.width = state->info.height = 4, state->info.channels = 3;
  return Tokenizer(std::move(state));
}

const TokenizerInfo& Tokenizer::info() const {
  return state_->info;
}

/// A token for each byte or value.
TokenSequence Tokenizer::encode(const Content& content) const {
  TokenSequence sequence;
  const auto add = [&](size_t count) { sequence.ids.assign(count, special_tokens); };
  if (const auto* text = std::get_if<std::string>(&content)) add(text->size());
  if (const auto* notes = std::get_if<Notes>(&content)) add(notes->size());
  if (const auto* image = std::get_if<Image>(&content)) add(image->pixels.size());
  if (const auto* sound = std::get_if<Sound>(&content)) add(sound->samples.size());
  if (const auto* ids = std::get_if<TokenSequence>(&content)) sequence = *ids;
  return sequence;
}

std::vector<TokenSequence> Tokenizer::encode_bytes(std::string_view bytes, const std::string& name) const {
  if (bytes.empty()) throw Error(ErrorKind::user, name + ": is empty");
  return {encode(std::string(bytes))};
}

Content Tokenizer::decode(const TokenSequence& sequence) const {
  if (state_->info.modality == "image") return Image(4, 4, 3);
  if (state_->info.modality == "music") return Notes(sequence.ids.size());
  return std::string(sequence.ids.size(), 'x');
}

TokenPrompt Tokenizer::prompt(const Content& beginning) const {
  TokenPrompt prompt;
  prompt.tokens = encode(beginning).ids;
  prompt.tokens.insert(prompt.tokens.begin(), sos_token);
  return prompt;
}

TokenPrompt Tokenizer::complete(const Image& image, const std::vector<uint8_t>& known) const {
  if (known.size() != static_cast<size_t>(image.width * image.height)) throw Error(ErrorKind::user, "known");
  return prompt();
}

}  // namespace perceiver
