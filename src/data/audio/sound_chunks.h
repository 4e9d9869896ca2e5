// Reduces a WAV file to the chunks needed to decode its audio.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace perceiver {

/// A WAV file in two consecutive parts.
struct WavChunks {
  std::string head;                    ///< everything before the samples
  std::span<const std::byte> samples;  ///< a part of the given file
};

/// Reduces a WAV file (RIFF, RIFX or RF64, which becomes RIFF) to the description of the samples and the
/// samples that are there, with their true length. Titles, markers and so on are attack surface in
/// libsndfile, and chunk lists with wrong lengths make its version 1.2 loop forever. Throws `user` "<source>:
/// …, byte <offset>" if a chunk before the samples extends past the end of the file, if the description
/// exceeds 64 KiB, or if there are no samples.
WavChunks wav_chunks(std::span<const std::byte> file, const std::string& source);

}  // namespace perceiver
