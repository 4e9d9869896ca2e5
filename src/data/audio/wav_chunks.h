// The chunks of a WAV file that its sound needs, without the others.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace perceiver {

/// A WAV file in two parts, one behind the other.
struct WavChunks {
  std::string head;                    ///< all up to the samples
  std::span<const std::byte> samples;  ///< a part of the file given
};

/// Leaves of a WAV file (RIFF, RIFX or RF64, which becomes RIFF) only what describes the samples, and the
/// samples that are there, with the length that they have: titles, markers and the like are for libsndfile to
/// go astray in, and lists of chunks whose lengths lie keep its version 1.2 busy for ever. Throws `user`
/// "<source>: …, byte <offset>" for chunks before the samples that pass the end of the file, for descriptions
/// of more than 64 KiB and where there are no samples.
WavChunks wav_chunks(std::span<const std::byte> file, const std::string& source);

}  // namespace perceiver
