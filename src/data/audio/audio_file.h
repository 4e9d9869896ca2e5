// Reads untrusted audio files with libsndfile and libmpg123, mixed to mono and resampled, and writes audio
// files.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/source_file.h"
#include "perceiver/media.h"

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

/// Reads a WAV, AIFF, AU, FLAC, Ogg (Vorbis, Opus, FLAC) or MP3 file, recognized by its first bytes, averages
/// its channels and, if its rate is not `rate`, resamples it (libsamplerate, sinc interpolation). MP3 and
/// Opus need a libsndfile that has them (1.1 and 1.0.29). Reports as repaired: samples that were announced
/// and are not there, an ID3 tag before anything but MP3. Throws `user` "<path>: …" for other formats, with
/// the command that converts them if they are known, for damaged files, and files beyond the limits above.
Audio read_audio(const SourceFile& file, int rate);

/// The samples of a sound at another rate, clamped to −1 … 1; NaN becomes silence. Throws `user` for a rate
/// or a length beyond the limits.
std::vector<float> resampled(const Sound& sound, int rate);

/// The bytes of a mono file with 16-bit samples; `ending` is ".wav" or ".flac".
std::string write_audio(std::span<const float> samples, int rate, std::string_view ending);

}  // namespace perceiver
