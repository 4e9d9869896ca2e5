// Sound files and sounds for tests.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <numbers>
#include <string>
#include <vector>

namespace perceiver::testing {

inline std::vector<float> tone(int rate, double seconds, double frequency, double amplitude = 0.5) {
  std::vector<float> samples(static_cast<size_t>(std::llround(rate * seconds)));
  for (size_t i = 0; i < samples.size(); ++i)
    samples[i] = static_cast<float>(
        amplitude * std::sin(2 * std::numbers::pi * frequency * static_cast<double>(i) / rate));
  return samples;
}

inline void put_little_endian(std::string& text, uint32_t value, int width) {
  for (int i = 0; i < width; ++i) text += static_cast<char>(value >> (8 * i));
}

/// A WAV file written by hand; `format` 1 = integers, 3 = floats.
inline std::string wav(int format, int channels, int rate, int bits, const std::string& data) {
  std::string text = "RIFF";
  put_little_endian(text, static_cast<uint32_t>(36 + data.size()), 4);
  text += "WAVEfmt ";
  put_little_endian(text, 16, 4), put_little_endian(text, static_cast<uint32_t>(format), 2),
      put_little_endian(text, static_cast<uint32_t>(channels), 2);
  put_little_endian(text, static_cast<uint32_t>(rate), 4);
  put_little_endian(text, static_cast<uint32_t>(rate * channels * bits / 8), 4);
  put_little_endian(text, static_cast<uint32_t>(channels * bits / 8), 2),
      put_little_endian(text, static_cast<uint32_t>(bits), 2);
  text += "data";
  put_little_endian(text, static_cast<uint32_t>(data.size()), 4);
  return text + data;
}

inline std::string int16(std::initializer_list<int> samples) {
  std::string data;
  for (const int sample : samples) put_little_endian(data, static_cast<uint32_t>(sample), 2);
  return data;
}

}  // namespace perceiver::testing
