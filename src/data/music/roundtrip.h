// What tokenization changes about a piece of music.
#pragma once

#include <cstdint>
#include <string>

#include "data/music/performance.h"

namespace perceiver {

/// The notes of a MIDI file are encoded, decoded, written as a MIDI file and read again. Times in
/// microseconds.
struct MusicRoundTrip {
  int64_t notes = 0;        ///< in the file, as `perform` reads it
  int64_t notes_after = 0;  ///< after the round trip; must be the same
  int64_t tokens = 0;       ///< without SOS and EOS
  int64_t duration = 0;     ///< of the file
  int64_t largest_onset_error = 0;
  int64_t largest_offset_error = 0;
  int64_t largest_velocity_error = 0;  ///< of 127
  int64_t lengthless = 0;              ///< notes whose length rounded to 0
  PerformanceChanges changes;          ///< made when reading, before tokenization
};

/// `source` names the file that was performed in messages.
MusicRoundTrip music_round_trip(const Performance& original, const std::string& source);

/// A readable report.
std::string describe(const MusicRoundTrip& trip);

}  // namespace perceiver
