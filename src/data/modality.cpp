#include "data/modality.h"

#include <algorithm>
#include <cctype>
#include <cstring>

#include "base/check.h"
#include "base/edit_distance.h"
#include "base/plural.h"
#include "base/text.h"
#include "perceiver/special_tokens.h"

namespace perceiver {

#define MODALITY(name) const ModalityKind& name##_modality();
#include "config/modalities.inc"
#undef MODALITY

namespace {

const ModalityKind* const* table_begin() {
  static const ModalityKind* const table[] = {
#define MODALITY(name) &name##_modality(),
#include "config/modalities.inc"
#undef MODALITY
      nullptr};
  return table;
}

bool ends_with_ignoring_case(std::string_view text, std::string_view ending) {
  if (text.size() < ending.size()) return false;
  const std::string_view tail = text.substr(text.size() - ending.size());
  return std::equal(tail.begin(), tail.end(), ending.begin(),
                    [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
}

/// Throws `user` unless `sequence` could be a document of that format.
void check_ids(const TokenSequence& sequence, const SequenceFormat& format) {
  const size_t count = sequence.ids.size();
  for (size_t i = 0; i < count; ++i)
    if (sequence.ids[i] < special_tokens || sequence.ids[i] >= format.vocabulary)
      throw_user("id {} of the sequence is {}; data ids are {} to {}", i, sequence.ids[i], special_tokens,
                 format.vocabulary - 1);
  const bool stored = format.positions == PositionKind::stored;
  const size_t wanted = stored ? count * static_cast<size_t>(format.axes) : 0;
  if (sequence.positions.size() != wanted)
    throw_user("{} ids come with {} positions; expected {}", count, sequence.positions.size(), wanted);
  for (size_t i = 0; i < sequence.positions.size(); ++i) {
    const size_t axis = i % static_cast<size_t>(format.axes);
    if (sequence.positions[i] < 2 || sequence.positions[i] >= format.position_sizes[axis])
      throw_user("position {} of id {} on axis {} is outside 2 to {}", sequence.positions[i],
                 i / static_cast<size_t>(format.axes), axis, format.position_sizes[axis] - 1);
  }
}

bool has_ending(std::string_view name, const std::vector<std::string_view>& endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return ends_with_ignoring_case(name, ending); });
}

}  // namespace

std::span<const ModalityKind* const> modality_kinds() {
  const ModalityKind* const* begin = table_begin();
  size_t count = 0;
  while (begin[count] != nullptr) ++count;
  return {begin, count};
}

const ModalityKind& find_modality(std::string_view name) {
  std::vector<std::string_view> names;
  for (const ModalityKind* kind : modality_kinds()) {
    if (kind->name == name) return *kind;
    names.push_back(kind->name);
  }
  throw_user("unknown modality {}; did you mean '{}'? The modalities are {}", quote(name),
             names[nearest_word(name, names)], fmt::join(names, ", "));
}

bool ModalityKind::takes(std::string_view file_name) const {
  if (accompanies(file_name)) return false;
  return endings.empty() || has_ending(file_name, endings) || has_ending(file_name, unreadable);
}

bool ModalityKind::accompanies(std::string_view file_name) const {
  return has_ending(file_name, companions);
}

Prompt Modality::prompt(const SourceFile& file, const PromptPart& options) const {
  if (options.seconds > 0 || options.rows > 0 || !options.known.empty())
    throw_user("{}: a prompt of this kind of data can only be limited by tokens", file.path);
  std::vector<TokenSequence> documents = encode(file);
  if (documents.empty()) throw_user("{}: contains nothing to continue", file.path);
  Prompt prompt;
  prompt.beginning = std::move(documents.front());
  prompt.length = format().fixed_length;
  const std::vector<int32_t>& positions = prompt.beginning.positions;
  if (!positions.empty()) {  // they also give the length of the whole sequence
    prompt.positions.assign(static_cast<size_t>(format().axes), 1);
    prompt.positions.insert(prompt.positions.end(), positions.begin(), positions.end());
    prompt.length = static_cast<int64_t>(prompt.beginning.ids.size());
  }
  const auto count = static_cast<size_t>(options.tokens);
  if (count == 0 || count >= prompt.beginning.ids.size()) return prompt;
  prompt.beginning.ids.resize(count);
  if (!prompt.beginning.positions.empty())
    prompt.beginning.positions.resize(count * static_cast<size_t>(format().axes));
  return prompt;
}

TokenSequence Modality::encode_value(const Content& content) const {
  TokenSequence sequence;
  if (const auto* ids = std::get_if<TokenSequence>(&content)) {
    check_ids(*ids, format());
    sequence = *ids;
    if (sequence.units == 0) sequence.units = static_cast<int64_t>(sequence.ids.size());
    return sequence;
  }
  if (!encode_content(content, sequence)) {
    static constexpr const char* kNames[] = {"a text", "an image", "notes", "a sound", "codes", "ids"};
    throw_user("{} cannot be encoded by a tokenizer for {}", kNames[content.index()], name());
  }
  return sequence;
}

Prompt Modality::complete(const Image&, const std::vector<uint8_t>&) const {
  throw_user("only images can be completed; this tokenizer is for {}", name());
}

std::string Modality::compare(const SourceFile& file) const {
  std::string report;
  for (const TokenSequence& document : encode(file)) {
    const std::string back = decode(document, outputs().front());
    const bool same =
        back.size() == file.bytes.size() && std::memcmp(back.data(), file.bytes.data(), back.size()) == 0;
    report += fmt::format("{} for {}; decoded: {}, {}\n", counted(document.ids.size(), "token"),
                          counted(document.units, format().unit), counted(back.size(), "byte"),
                          same ? "identical to the file" : fmt::format("the file has {}", file.bytes.size()));
  }
  return report;
}

std::unique_ptr<Modality> open_modality(std::string_view name, std::map<std::string, std::string> options) {
  const ModalityKind& kind = find_modality(name);
  return kind.open(ModalityOptions(kind, std::move(options)));
}

std::unique_ptr<Modality> restore_modality(std::string_view name, std::string_view tokenizer,
                                           std::map<std::string, std::string> options) {
  const ModalityKind& kind = find_modality(name);
  std::map<std::string, std::string> packed;
  if (tokenizer.find('\n') != std::string_view::npos && tokenizer.substr(0, tokenizer.find('\n')) == name)
    packed = unpack_tokenizer(name, tokenizer);
  for (const ModalityOption& option : kind.options) {
    const auto wanted = options.find(std::string(option.name));
    const auto made = packed.find(std::string(option.name));
    if (option.use != ModalityOption::Use::tokens || wanted == options.end() || packed.empty()) continue;
    // An option that the tokenizer does not name had its default.
    const std::string built(made == packed.end() ? option.default_value : made->second);
    if (wanted->second != built)
      throw_user("data.options.{} is {}, but the data was built with {}; rebuild it or leave the option out",
                 option.name, quote(wanted->second), quote(built));
  }
  return kind.restore(tokenizer, ModalityOptions(kind, std::move(options)));
}

}  // namespace perceiver
