// AIFF and AIFF-C: big-endian chunks of even length after FORM, a length and the type.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "data/audio/sound_chunks.h"

namespace perceiver {
namespace {

constexpr size_t sound_head = 8;  ///< offset and block size, before the samples of the chunk SSND

uint32_t length_at(std::string_view file, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(file[at + i]);
  return value;
}

std::string length_text(size_t length) {
  std::string text(4, '\0');
  for (size_t i = 0; i < 4; ++i) text[i] = static_cast<char>(length >> (24 - 8 * i));
  return text;
}

/// A chunk with its name and length.
std::string whole_chunk(std::string_view name, std::string_view content) {
  std::string text = std::string(name) + length_text(content.size()) + std::string(content);
  if (content.size() % 2 != 0) text += '\0';
  return text;
}

}  // namespace

SoundChunks aiff_chunks(std::span<const std::byte> bytes, const std::string& source) {
  const std::string_view file(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::string version, description, sound;
  SoundChunks aiff;
  for (size_t at = 12; file.size() - std::min(at, file.size()) >= 8;) {
    const std::string_view name = file.substr(at, 4);
    const size_t length = length_at(file, at + 4), left = file.size() - at - 8;
    const std::string_view content = file.substr(at + 8, length);
    if (name == "SSND" && sound.empty()) {
      if (content.size() < sound_head) break;
      aiff.samples = bytes.subspan(at + 8 + sound_head, content.size() - sound_head);
      aiff.missing = length - content.size();
      sound = "SSND" + length_text(content.size()) + std::string(content.substr(0, sound_head));
    } else if (length > left) {
      if (!description.empty() && !sound.empty()) break;
      throw_user("{}: damaged: the chunk '{}' of {} bytes extends past the end of the file, byte {}", source,
                 printable(std::string(name)), length, at);
    }
    if ((name == "COMM" || name == "FVER") && length > kLongestHead)
      throw_user("{}: the description of the samples is longer than {} bytes, byte {}", source, kLongestHead,
                 at);
    if (name == "COMM" && description.empty()) description = whole_chunk(name, content);
    if (name == "FVER" && version.empty()) version = whole_chunk(name, content);
    at += 8 + length + length % 2;
  }
  if (description.empty()) throw_user("{}: damaged: no description of the samples (no chunk 'COMM')", source);
  if (sound.empty()) throw_user("{}: damaged: no samples (no chunk 'SSND')", source);
  const std::string chunks = version + description + sound;
  aiff.head =
      "FORM" + length_text(4 + chunks.size() + aiff.samples.size()) + std::string(file.substr(8, 4)) + chunks;
  return aiff;
}

}  // namespace perceiver
