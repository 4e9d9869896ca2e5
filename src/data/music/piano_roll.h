// Draws notes as a piano roll.
#pragma once

#include <span>

#include "data/music/performance.h"
#include "perceiver/media.h"

namespace perceiver {

/// Time runs from left to right, 50 pixels per second (fewer if the image would be wider than 16384), pitch
/// from bottom to top, 4 pixels per semitone, over the pitches that occur and at least two octaves. Louder
/// notes are darker, their onsets red; thin lines mark each second and each C. `duration`: minimum time
/// shown, microseconds. Notes that start before `given`, microseconds, are green, and a green line marks that
/// time: the prompt of a continuation.
Image piano_roll(std::span<const Note> notes, int64_t duration, int64_t given = 0);

}  // namespace perceiver
