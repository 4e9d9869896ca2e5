// Reads untrusted audio files with libsndfile, mixed to mono and resampled, and writes audio files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

inline constexpr int audio_max_channels = 64;
inline constexpr int audio_min_rate = 100;        ///< Hz
inline constexpr int audio_max_rate = 1'000'000;  ///< Hz
/// Of one file after mixing, before and after resampling.
inline constexpr int64_t audio_max_samples = int64_t{1} << 28;

/// One channel of audio.
struct Audio {
  std::vector<float> samples;  ///< −1 … 1, clamped
  int rate = 0;                ///< samples per second
  int file_rate = 0;           ///< samples per second in the file
  int file_channels = 0;
  int64_t file_frames = 0;
};

/// Reads a WAV or FLAC file, averages its channels and, if its rate is not `rate`, resamples it
/// (libsamplerate, sinc interpolation). Throws `user` "<source>: …" for other formats, damaged files, and
/// files beyond the limits above. A truncated WAV file is no error: the samples that are there are read.
Audio read_audio(std::span<const std::byte> file, int rate, const std::string& source);

/// The bytes of a mono file with 16-bit samples; `ending` is ".wav" or ".flac".
std::string write_audio(std::span<const float> samples, int rate, std::string_view ending);

}  // namespace perceiver
