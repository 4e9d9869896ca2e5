// Pictures, notes, sounds and codes in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace perceiver {

/// Bytes [height, width, channels]: rows from the top, pixels from the left, interleaved channels.
struct Image {
  int64_t width = 0;     ///< pixels
  int64_t height = 0;    ///< pixels
  int64_t channels = 3;  ///< 1: grey, 3: red, green, blue (sRGB)
  std::vector<uint8_t> pixels;

  Image() = default;
  /// All pixels 0.
  Image(int64_t width_, int64_t height_, int64_t channels_)
      : width(width_),
        height(height_),
        channels(channels_),
        pixels(static_cast<size_t>(width_ * height_ * channels_)) {}

  uint8_t* at(int64_t x, int64_t y) { return pixels.data() + (y * width + x) * channels; }
  const uint8_t* at(int64_t x, int64_t y) const { return pixels.data() + (y * width + x) * channels; }

  bool operator==(const Image&) const = default;
};

/// A note of a piano. Times are in microseconds from the start of the piece.
struct Note {
  int64_t onset = 0;
  int64_t offset = 0;     ///< ≥ onset
  int32_t pitch = 60;     ///< 0 to 127, 60 is middle C
  int32_t velocity = 64;  ///< 1 to 127

  bool operator==(const Note&) const = default;
};
using Notes = std::vector<Note>;

/// One channel of audio.
struct Sound {
  std::vector<float> samples;  ///< −1 … 1
  int rate = 0;                ///< samples per second

  bool operator==(const Sound&) const = default;
};

/// Codes of a neural audio codec, [frames, levels].
struct Codes {
  int64_t levels = 0;
  std::vector<int32_t> values;

  int64_t frames() const { return levels == 0 ? 0 : static_cast<int64_t>(values.size()) / levels; }
  bool operator==(const Codes&) const = default;
};

/// The data tokens of a document, or of a generated sequence, without SOS and EOS.
struct TokenSequence {
  std::vector<int32_t> ids = {};  ///< [n], from 3 on
  /// [n, axes], each ≥ 2 (SOS is at 1 on every axis); empty where positions follow from the place in the
  /// sequence.
  std::vector<int32_t> positions = {};
  int64_t units = 0;  ///< what bits per unit divide by: bytes, dimensions, events …
  int64_t words = 0;  ///< text: words separated by white space; otherwise 0
  int64_t given = 0;  ///< of a generated sequence: how many of the first ids were its prompt

  bool operator==(const TokenSequence&) const = default;
};

/// What a sequence of tokens stands for: a text (UTF-8), an image, music, a sound, codes, or just ids.
using Content = std::variant<std::string, Image, Notes, Sound, Codes, TokenSequence>;

}  // namespace perceiver
