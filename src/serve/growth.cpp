#include "serve/growth.h"

#include <algorithm>

#include "serve/content_json.h"

namespace perceiver::serve {
namespace {

size_t size_of(const Content& content) {
  if (const auto* sound = std::get_if<Sound>(&content)) return sound->samples.size();
  if (const auto* codes = std::get_if<Codes>(&content)) return codes->values.size();
  if (const auto* sequence = std::get_if<TokenSequence>(&content)) return sequence->ids.size();
  if (const auto* text = std::get_if<std::string>(&content)) return text->size();
  return 0;
}

/// Drops the first `count` of what `size_of` counts.
void drop(Content& content, size_t count) {
  const auto erase = [count](auto& values) {
    values.erase(values.begin(), values.begin() + static_cast<int64_t>(std::min(count, values.size())));
  };
  if (auto* sound = std::get_if<Sound>(&content)) erase(sound->samples);
  if (auto* codes = std::get_if<Codes>(&content)) erase(codes->values);
  if (auto* sequence = std::get_if<TokenSequence>(&content)) erase(sequence->ids);
}

}  // namespace

Growth::Growth(const Tokenizer& tokenizer, const TokenSequence& beginning) : tokenizer_(tokenizer) {
  const Content content = tokenizer_.decode(beginning);
  shown_ = size_of(content);
  if (const auto* notes = std::get_if<Notes>(&content))
    for (const Note& note : *notes) notes_.insert({note.onset, note.offset, note.pitch});
}

nlohmann::ordered_json Growth::show(const TokenSequence& sequence, bool whole) {
  Content content = tokenizer_.decode(sequence);
  if (const auto* notes = std::get_if<Notes>(&content)) return show_notes(*notes, whole);
  if (std::holds_alternative<Image>(content) || std::holds_alternative<std::string>(content))
    return write_content(content);
  const size_t size = size_of(content);
  if (size <= shown_) return nullptr;
  drop(content, shown_);
  shown_ = size;
  return write_content(content);
}

/// A note that lasts to the end of what there is may go on.
nlohmann::ordered_json Growth::show_notes(const Notes& notes, bool whole) {
  int64_t end = 0;
  for (const Note& note : notes) end = std::max(end, note.offset);
  auto list = nlohmann::ordered_json::array();
  for (const Note& note : notes)
    if ((whole || note.offset < end) && notes_.insert({note.onset, note.offset, note.pitch}).second)
      list.push_back(write_note(note));
  if (list.empty()) return nullptr;
  return {{"notes", std::move(list)}};
}

}  // namespace perceiver::serve
