// Notes as a Standard MIDI File.
#pragma once

#include <span>
#include <string>

#include "data/music/performance.h"

namespace perceiver {

/// A file of format 0: piano on channel 1, a tick is a millisecond (500 to the quarter note at tempo 120).
/// Each time is rounded to its tick on its own, so errors never add up. At one tick, notes that began earlier
/// end before new ones begin; a note without length ends after it began. Notes must not be empty in pitch and
/// velocity ranges (Note), nor overlap in one pitch. Throws `user` for a time beyond longest_performance.
std::string write_midi(std::span<const Note> notes);

}  // namespace perceiver
