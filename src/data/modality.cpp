#include "data/modality.h"

#include <strings.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/edit_distance.h"
#include "base/text.h"
#include "data/tokenizer.h"
#include "io/json_document.h"

namespace perceiver {

#define MODALITY(name) const ModalityKind& name##_modality();
#include "config/modalities.inc"
#undef MODALITY

namespace {

constexpr size_t max_packed_bytes = size_t{64} << 20;

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

bool has_ending(std::string_view name, const std::vector<std::string_view>& endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return ends_with_ignoring_case(name, ending); });
}

/// A whole text as a number; throws with what was expected.
template <typename Number>
Number parse_number(std::string_view name, const std::string& text, Number min, Number max,
                    const char* what) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= min && value <= max))
    throw_user("data.options.{}: {} is not {} from {} to {}", name, quote(text), what, min, max);
  return value;
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
  throw_user("unknown modality {}; did you mean '{}'? Known are {}", quote(name),
             names[nearest_word(name, names)], fmt::join(names, ", "));
}

bool ModalityKind::takes(std::string_view file_name) const {
  if (has_ending(file_name, companions)) return false;
  return endings.empty() || has_ending(file_name, endings);
}

ModalityOptions::ModalityOptions(const ModalityKind& kind, std::map<std::string, std::string> given)
    : kind_(&kind) {
  std::vector<std::string_view> names;
  for (const ModalityOption& option : kind.options) {
    values_.emplace(option.name, option.default_value);
    names.push_back(option.name);
  }
  for (auto& [name, value] : given) {
    const auto known = values_.find(name);
    if (known != values_.end()) {
      known->second = std::move(value);
    } else if (names.empty()) {
      throw_user("data.options.{}: modality {} has no options", name, kind.name);
    } else {
      throw_user("data.options.{}: modality {} has no such option; did you mean '{}'? It has {}", name,
                 kind.name, names[nearest_word(name, names)], fmt::join(names, ", "));
    }
  }
}

const std::string& ModalityOptions::text(std::string_view name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) throw_failure("modality {} declares no option {}", kind_->name, name);
  return found->second;
}

int64_t ModalityOptions::integer(std::string_view name, int64_t min, int64_t max) const {
  return parse_number<int64_t>(name, text(name), min, max, "a whole number");
}

double ModalityOptions::real(std::string_view name, double min, double max) const {
  return parse_number<double>(name, text(name), min, max, "a number");
}

bool ModalityOptions::flag(std::string_view name) const {
  return word(name, {"false", "true"}) == 1;
}

size_t ModalityOptions::word(std::string_view name, std::initializer_list<std::string_view> words) const {
  const std::string& value = text(name);
  const auto found = std::find(words.begin(), words.end(), value);
  if (found == words.end())
    throw_user("data.options.{}: {} is not one of {}", name, quote(value), fmt::join(words, ", "));
  return static_cast<size_t>(found - words.begin());
}

std::map<std::string, std::string> ModalityOptions::values(ModalityOption::Use use) const {
  std::map<std::string, std::string> chosen;
  for (const ModalityOption& option : kind_->options)
    if (option.use == use) chosen.emplace(option.name, text(option.name));
  return chosen;
}

std::string pack_tokenizer(std::string_view modality, const std::map<std::string, std::string>& values) {
  return fmt::format("{}\n{}", modality, nlohmann::json(values).dump());
}

std::map<std::string, std::string> unpack_tokenizer(std::string_view modality, std::string_view tokenizer) {
  const size_t line = tokenizer.find('\n');
  if (line == std::string_view::npos || tokenizer.substr(0, line) != modality)
    throw_user("the tokenizer {} is not one of modality {}", quote(tokenizer.substr(0, line)), modality);
  if (tokenizer.size() > max_packed_bytes)
    throw_user("the tokenizer of modality {} has {} bytes; at most {} are read", modality, tokenizer.size(),
               max_packed_bytes);
  const std::string source = fmt::format("the tokenizer of modality {}", modality);
  const nlohmann::json json = parse_json_document(tokenizer.substr(line + 1), source);
  if (!json.is_object()) throw_user("{}: not a JSON object", source);
  std::map<std::string, std::string> values;
  for (const auto& [name, value] : json.items()) {
    if (!value.is_string()) throw_user("{}: the value of {} is not a text", source, quote(name));
    values.emplace(name, value.get<std::string>());
  }
  return values;
}

Prompt Modality::prompt(const SourceFile& file, const PromptOptions& options) const {
  if (options.seconds > 0 || options.rows > 0 || !options.known.empty())
    throw_user("{}: a prompt of this kind of data can be limited in tokens only", file.path);
  std::vector<TokenSequence> documents = encode(file);
  if (documents.empty()) throw_user("{}: holds nothing to continue", file.path);
  Prompt prompt;
  prompt.beginning = std::move(documents.front());
  prompt.length = format().fixed_length;
  const std::vector<int32_t>& positions = prompt.beginning.positions;
  if (!positions.empty()) {  // they tell how long the whole is, too
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

std::string Modality::compare(const SourceFile& file) const {
  std::string report;
  for (const TokenSequence& document : encode(file)) {
    const std::string back = decode(document, outputs().front());
    const bool same =
        back.size() == file.bytes.size() && std::memcmp(back.data(), file.bytes.data(), back.size()) == 0;
    report += fmt::format(
        "{} tokens for {} {}s; decoded: {} bytes, {}\n", document.ids.size(), document.units, format().unit,
        back.size(), same ? "the same as the file's" : fmt::format("the file has {}", file.bytes.size()));
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
    if (option.use != ModalityOption::Use::tokens || wanted == options.end() || made == packed.end())
      continue;
    if (wanted->second != made->second)
      throw_user(
          "data.options.{} is {}, but the data was made with {}; build it anew or leave the option out",
          option.name, quote(wanted->second), quote(made->second));
  }
  return kind.restore(tokenizer, ModalityOptions(kind, std::move(options)));
}

}  // namespace perceiver
