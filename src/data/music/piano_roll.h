// Notes drawn as a piano roll.
#pragma once

#include <span>

#include "data/image/image.h"
#include "data/music/performance.h"

namespace perceiver {

/// Time from left to right, 50 pixels a second (fewer where the picture would be wider than 16384), pitch
/// from bottom to top, 4 pixels a semitone, over the pitches that occur and at least two octaves. Notes are
/// darker the louder they are, their beginnings red; thin lines mark each second and each C. `duration`,
/// microseconds: how far the picture reaches at least. `mark`, if positive: a green line at that time, e.g.
/// where a continuation begins.
Image piano_roll(std::span<const Note> notes, int64_t duration, int64_t mark = 0);

}  // namespace perceiver
