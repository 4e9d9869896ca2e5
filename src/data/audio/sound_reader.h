// Decodes the samples of a sound file, whatever its format.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "data/source_file.h"

namespace perceiver {

/// A sound file that is being read.
class SoundReader {
 public:
  virtual ~SoundReader() = default;
  virtual int channels() const = 0;
  virtual int rate() const = 0;  ///< samples per second
  /// The next frames into `out` [frames, channels], as many as it has room for; 0 at the end.
  virtual int64_t read(std::span<float> out) = 0;
  /// After the end: what is wrong with the file, on one line; empty if nothing is.
  virtual std::string damage() const = 0;
  /// Frames that the file announces; 0 if it does not.
  virtual int64_t announced() const { return 0; }
};

/// Opens a file of any format that `read_audio` reads; `file` must outlive the result. Throws and reports
/// repairs as `read_audio` does.
std::unique_ptr<SoundReader> open_sound_reader(const SourceFile& file);

/// The reader of MP3 (and MP2): MPEG frames, perhaps with tags behind them.
std::unique_ptr<SoundReader> open_mp3_reader(std::span<const std::byte> frames, const std::string& source);

}  // namespace perceiver
