// Reduces WAV and AIFF files to the chunks needed to decode their audio.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace perceiver {

/// A sound file in two consecutive parts.
struct SoundChunks {
  std::string head;                    ///< everything before the samples
  std::span<const std::byte> samples;  ///< a part of the given file
  uint64_t missing = 0;                ///< bytes of samples that were announced and are not there
};

/// Bytes of a description of the samples; real ones have some dozens.
inline constexpr size_t kLongestHead = 65536;

/// Reduces a WAV file (RIFF, RIFX or RF64, which becomes RIFF) to the description of the samples and the
/// samples that are there, with their true length. Titles, markers and so on are attack surface in
/// libsndfile, and chunk lists with wrong lengths make its version 1.2 loop forever. Throws `user` "<source>:
/// …, byte <offset>" if a chunk before the samples extends past the end of the file, if the description
/// exceeds 64 KiB, if there are no samples, or if they are of a compressed kind that is not read.
SoundChunks wav_chunks(std::span<const std::byte> file, const std::string& source);

/// The same for an AIFF or AIFF-C file, whose description may also follow the samples.
SoundChunks aiff_chunks(std::span<const std::byte> file, const std::string& source);

}  // namespace perceiver
