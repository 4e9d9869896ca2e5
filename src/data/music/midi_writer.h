// Writes notes as a Standard MIDI File.
#pragma once

#include <span>
#include <string>

#include "data/music/performance.h"

namespace perceiver {

/// The bytes of a file of format 0: piano on channel 1, one tick per millisecond (500 per quarter note at
/// tempo 120). Each time is rounded to its tick independently, so errors do not accumulate. Within a tick,
/// earlier notes end before new ones start; a note of zero length ends after it starts. Notes must be in the
/// pitch and velocity ranges of Note and must not overlap in one pitch. Throws `user` for a time beyond
/// longest_performance.
std::string write_midi(std::span<const Note> notes);

}  // namespace perceiver
