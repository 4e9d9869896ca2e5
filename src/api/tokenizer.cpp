#include "perceiver/tokenizer.h"

#include <limits>

#include "api/tokenizer_state.h"
#include "base/check.h"
#include "data/sample_files.h"
#include "io/atomic_file.h"
#include "io/file_view.h"

namespace perceiver {
namespace {

constexpr const char* kCopy = "copy";

TokenizerInfo info_of(const Modality& modality) {
  const SequenceFormat& format = modality.format();
  const ModalityKind& kind = find_modality(modality.name());
  TokenizerInfo info;
  info.modality = info.name = modality.name();
  info.vocabulary = format.vocabulary;
  info.unit = format.unit;
  info.axes = format.axes;
  info.position_sizes = format.position_sizes;
  info.fixed_length = format.fixed_length;
  info.ends = format.ends;
  info.reads.assign(kind.endings.begin(), kind.endings.end());
  const auto outputs = modality.outputs();
  info.writes.assign(outputs.begin(), outputs.end());
  modality.add_info(info);
  return info;
}

/// The copy task has plain ids, of which only the number is known.
std::unique_ptr<Modality> copy_modality(const TextTokenizer& ids) {
  return open_modality("tokens", {{"values", std::to_string(ids.vocabulary() - special_tokens)}});
}

TokenPrompt token_prompt(const Modality& modality, const Prompt& prompt) {
  const SequenceFormat& format = modality.format();
  constexpr int64_t kAny = std::numeric_limits<int32_t>::max();
  SamplePlan plan = plan_sample(modality, prompt, kAny, format.vocabulary);
  const bool known_length = prompt.length > 0 || format.fixed_length > 0;
  return {.tokens = std::move(plan.prompt),
          .positions = std::move(plan.positions),
          .masks = std::move(plan.biases),
          .remaining = known_length ? plan.tokens : 0,
          .may_end = plan.may_end};
}

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}

Tokenizer Tokenizer::open(const std::string& modality, const std::map<std::string, std::string>& options) {
  auto state = std::make_shared<State>();
  state->modality = open_modality(modality, options);
  state->serialized = state->modality->tokenizer();
  if (modality == "text") state->text = make_tokenizer(state->serialized);
  state->info = info_of(*state->modality);
  return Tokenizer(std::move(state));
}

Tokenizer Tokenizer::restore(const std::string& modality, const std::string& serialized) {
  auto state = std::make_shared<State>();
  state->serialized = serialized;
  if (modality == "text" || modality == kCopy) state->text = make_tokenizer(serialized);
  state->modality = modality == kCopy ? copy_modality(*state->text) : restore_modality(modality, serialized);
  state->info = info_of(*state->modality);
  state->info.modality = modality;
  return Tokenizer(std::move(state));
}

const TokenizerInfo& Tokenizer::info() const {
  return state_->info;
}
const std::string& Tokenizer::serialized() const {
  return state_->serialized;
}

TokenSequence Tokenizer::encode(const Content& content) const {
  return state_->modality->encode_value(content);
}

std::vector<TokenSequence> Tokenizer::encode_file(const std::string& path) const {
  const FileView content(path);
  return state_->modality->encode({.path = path, .bytes = content.bytes()});
}

std::vector<TokenSequence> Tokenizer::encode_bytes(std::string_view bytes, const std::string& name) const {
  return state_->modality->encode({.path = name, .bytes = std::as_bytes(std::span(bytes))});
}

Content Tokenizer::decode(const TokenSequence& sequence) const {
  return state_->modality->decode_value(sequence);
}

std::string Tokenizer::decode_bytes(const TokenSequence& sequence, const std::string& ending) const {
  return state_->modality->decode(sequence, ending);
}

std::vector<std::string> Tokenizer::write(const std::vector<TokenSequence>& sequences,
                                          const std::string& path) const {
  return write_samples(*state_->modality, sequences, path);
}

TokenPrompt Tokenizer::prompt(const Content& beginning) const {
  Prompt prompt;
  prompt.beginning = encode(beginning);
  const std::vector<int32_t>& positions = prompt.beginning.positions;
  if (!positions.empty()) {
    prompt.positions.assign(static_cast<size_t>(state_->info.axes), 1);
    prompt.positions.insert(prompt.positions.end(), positions.begin(), positions.end());
  }
  return token_prompt(*state_->modality, prompt);
}

TokenPrompt Tokenizer::prompt_file(const std::string& path, const PromptPart& part) const {
  return token_prompt(*state_->modality, read_prompt(*state_->modality, path, part));
}

TokenPrompt Tokenizer::complete(const Image& image, const std::vector<uint8_t>& known) const {
  return token_prompt(*state_->modality, state_->modality->complete(image, known));
}

}  // namespace perceiver
