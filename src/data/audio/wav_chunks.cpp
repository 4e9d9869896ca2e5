#include "data/audio/sound_chunks.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "data/audio/sound_format.h"

namespace perceiver {
namespace {

constexpr uint64_t unknown_length = 0xFFFFFFFF;  ///< of samples that were written to a pipe

std::string_view text_at(std::span<const std::byte> file, size_t at, size_t length) {
  return {reinterpret_cast<const char*>(file.data()) + at, length};
}

uint32_t integer_at(std::span<const std::byte> file, size_t at, size_t width, bool big_endian) {
  uint32_t value = 0;
  for (size_t i = 0; i < width; ++i)
    value = value << 8 | std::to_integer<uint32_t>(file[at + (big_endian ? i : width - 1 - i)]);
  return value;
}

/// Length of the samples in bytes: a length of 2^32 - 1 means the 64-bit length in the chunk ds64.
uint64_t samples_length(uint64_t length, std::string_view ds64) {
  if (length != unknown_length || ds64.size() < 16) return length;
  uint64_t value = 0;
  for (size_t i = 16; i > 8; --i) value = value << 8 | static_cast<unsigned char>(ds64[i - 1]);
  return value;
}

std::string length_text(uint32_t length, bool big_endian) {
  std::string text(4, '\0');
  for (size_t i = 0; i < 4; ++i) text[big_endian ? 3 - i : i] = static_cast<char>(length >> (8 * i));
  return text;
}

/// Refuses samples that are compressed in a way that is not read, from the content of the chunk 'fmt '.
void check_codec(std::span<const std::byte> description, bool big_endian, const std::string& source) {
  constexpr uint32_t extensible = 0xFFFE;  // the tag proper starts the subformat
  if (description.size() < 2) return;
  uint32_t tag = integer_at(description, 0, 2, big_endian);
  if (tag == extensible && description.size() >= 26) tag = integer_at(description, 24, 2, big_endian);
  if (const char* codec = unread_wav_codec(tag))
    throw_user(
        "{}: is a WAV file with {} inside (format tag {:#06x}), which is not read; convert it: ffmpeg -i "
        "in.wav out.flac",
        source, codec, tag);
}

}  // namespace

SoundChunks wav_chunks(std::span<const std::byte> file, const std::string& source) {
  if (file.size() < 12 || text_at(file, 8, 4) != "WAVE")
    throw_user("{}: not a supported audio file: RIFF, but not WAVE, byte 8", source);
  const bool big_endian = text_at(file, 0, 4) == "RIFX";
  SoundChunks wav;
  std::string_view ds64;
  const size_t longest = std::min<size_t>(file.size(), 0xFFFFFFFE);
  wav.head = std::string(big_endian ? "RIFX" : "RIFF") +
             length_text(static_cast<uint32_t>(longest), big_endian) + "WAVE";
  for (size_t at = 12; file.size() - at >= 8;) {
    const std::string_view chunk = text_at(file, at, 4);
    const size_t length = integer_at(file, at + 4, 4, big_endian), left = file.size() - at - 8;
    if (chunk == "data") {
      const uint64_t announced = samples_length(length, ds64);
      const size_t there = std::min<uint64_t>(announced, std::min(left, longest));
      if (announced != unknown_length) wav.missing = announced - there;
      wav.head += "data" + length_text(static_cast<uint32_t>(there), big_endian);
      wav.samples = file.subspan(at + 8, there);
      return wav;
    }
    if (length > left)
      throw_user("{}: damaged: the chunk '{}' of {} bytes extends past the end of the file, byte {}", source,
                 printable(std::string(chunk)), length, at);
    const size_t padded = std::min(length + length % 2, left);
    if (chunk == "ds64") ds64 = text_at(file, at + 8, length);
    if (chunk == "fmt ") check_codec(file.subspan(at + 8, length), big_endian, source);
    if (chunk == "fmt " || chunk == "fact") {
      if (wav.head.size() + padded > kLongestHead)
        throw_user("{}: the description of the samples is longer than {} bytes, byte {}", source,
                   kLongestHead, at);
      wav.head += text_at(file, at, 8 + padded);
    }
    at += 8 + padded;
  }
  throw_user("{}: damaged: no samples (no chunk 'data')", source);
}

}  // namespace perceiver
