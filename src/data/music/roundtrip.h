// What tokenisation changes about a piece of music.
#pragma once

#include <cstdint>
#include <string>

#include "data/music/performance.h"

namespace perceiver {

/// From a MIDI file's notes to ids, to notes, to a written MIDI file, and that read again. Times in
/// microseconds.
struct MusicRoundTrip {
  int64_t notes = 0;        ///< in the file, as `perform` reads it
  int64_t notes_after = 0;  ///< after the round trip; the same, or something is wrong
  int64_t tokens = 0;       ///< without SOS and EOS
  int64_t duration = 0;     ///< of the file
  int64_t largest_onset_error = 0;
  int64_t largest_offset_error = 0;
  int64_t largest_velocity_error = 0;  ///< of 127
  int64_t lengthless = 0;              ///< notes too short for a step, of length 0 afterwards
  PerformanceChanges changes;          ///< made in reading, before tokenisation
};

/// `bytes` of a MIDI file, `source` its name in messages. Throws as parse_midi and perform do.
MusicRoundTrip music_round_trip(std::span<const uint8_t> bytes, const std::string& source);

/// Some lines for people.
std::string describe(const MusicRoundTrip& trip);

}  // namespace perceiver
