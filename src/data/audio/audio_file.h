// Sound files, read without trust by libsndfile, mixed down and resampled; and written.
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
inline constexpr int64_t audio_max_samples =
    int64_t{1} << 28;  ///< of one file after mixing, before and after resampling

/// One channel of sound.
struct Audio {
  std::vector<float> samples;  ///< −1 … 1, larger ones cut off
  int rate = 0;                ///< samples per second
  int file_rate = 0;           ///< that of the file
  int file_channels = 0;
  int64_t file_frames = 0;
};

/// Reads a WAV or FLAC file, mixes its channels to their mean and, where the
/// file's rate is another than `rate`, resamples (libsamplerate, sinc interpolation). Throws `user`
/// "<source>: …" for what is no such file, is damaged, or passes the limits above. Bytes missing at the end
/// of a WAV file are not missed: what is there is read.
Audio read_audio(std::span<const std::byte> file, int rate, const std::string& source);

/// A file of one channel of 16-bit samples; `ending` is ".wav" or ".flac".
std::string write_audio(std::span<const float> samples, int rate, std::string_view ending);

}  // namespace perceiver
