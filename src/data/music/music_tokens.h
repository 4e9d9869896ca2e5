// Notes as the events of the field's 388-event vocabulary, and back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/music/performance.h"
#include "data/special_tokens.h"

namespace perceiver {

/// 128 note-ons, 128 note-offs, 100 time shifts of 10 ms to 1 s, 32 velocities (Oore et al. 2018, "This time
/// with feeling"; Huang et al. 2019, "Music Transformer"), in this order from id 3 on.
inline constexpr int32_t music_note_on = special_tokens;
inline constexpr int32_t music_note_off = music_note_on + 128;
inline constexpr int32_t music_shift = music_note_off + 128;  ///< of one step; + 99: of a hundred
inline constexpr int32_t music_velocity = music_shift + 100;
inline constexpr int32_t music_vocabulary = music_velocity + 32;
static_assert(music_vocabulary == 391);

inline constexpr int32_t music_longest_shift = 100;  ///< steps
inline constexpr int64_t music_step = 10'000;        ///< microseconds

/// The step nearest to a time; ties go to the later one. So a rounded time is off by 5 ms at most.
constexpr int64_t music_step_at(int64_t microseconds) {
  return (microseconds + music_step / 2) / music_step;
}
/// Velocities 1 to 127 in bins of four.
constexpr int32_t velocity_bin(int32_t velocity) {
  return (velocity - 1) / 4;
}
/// The middle of a bin.
constexpr int32_t bin_velocity(int32_t bin) {
  return 4 * bin + 3;
}

/// Ids of `notes` (as `perform` gives them: of one pitch no two at once), without SOS and EOS. Onsets and
/// offsets are rounded to steps each on its own, from the beginning of the piece, so that errors never add
/// up. A pause is as few time shifts as possible, whole seconds first. At one step, notes that began at an
/// earlier one end first, by pitch; then notes begin, by pitch, each preceded by its velocity where that
/// differs from the last and, if it has no length after rounding, followed by its end.
std::vector<int32_t> encode_music(std::span<const Note> notes);

struct DecodedMusic {
  std::vector<Note> notes;  ///< by onset, then pitch; times are multiples of music_step
  int64_t duration = 0;     ///< microseconds to the last event
  int64_t restruck = 0;     ///< notes ended because their pitch was struck again
  int64_t stray_ends = 0;   ///< ends of notes that had not begun, ignored
  int64_t unended = 0;      ///< notes that still sound at the end, ended there
};

/// Any sequence of ids, as a model may make it; special ids stand for nothing, nor do ids of music_vocabulary
/// or more (models may have more ids than there are events). The velocity is that of bin 15 until one is
/// given.
DecodedMusic decode_music(std::span<const int32_t> ids);

/// Steps that an id lets pass: 0 but for time shifts.
constexpr int64_t music_steps(int32_t id) {
  return id >= music_shift && id < music_velocity ? id - music_shift + 1 : 0;
}

/// The ids of the first `microseconds`, the last time shift cut short so that exactly this time has passed
/// (less only if the piece is shorter). Notes that sound at that moment have begun and not ended: a
/// continuation ends them.
std::vector<int32_t> first_music(std::span<const int32_t> ids, int64_t microseconds);

/// All pitches moved by `semitones`; by the nearest number towards 0 that keeps every one within 0 to 127.
std::vector<int32_t> transpose_music(std::span<const int32_t> ids, int64_t semitones);

/// All times, from the beginning of `ids` on, multiplied by `factor` (0.25 to 4) and rounded each on its own.
std::vector<int32_t> stretch_music(std::span<const int32_t> ids, double factor);

}  // namespace perceiver
