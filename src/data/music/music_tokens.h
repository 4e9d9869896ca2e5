// Notes as events of the usual 388-event vocabulary, and back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/music/performance.h"
#include "perceiver/special_tokens.h"

namespace perceiver {

/// 128 note-ons, 128 note-offs, 100 time shifts of 10 ms to 1 s, 32 velocities (Oore et al. 2018, "This time
/// with feeling"; Huang et al. 2019, "Music Transformer"), in this order, starting at id 3.
inline constexpr int32_t music_note_on = special_tokens;
inline constexpr int32_t music_note_off = music_note_on + 128;
inline constexpr int32_t music_shift = music_note_off + 128;  ///< of one step; + 99: of a hundred
inline constexpr int32_t music_velocity = music_shift + 100;
inline constexpr int32_t music_vocabulary = music_velocity + 32;
static_assert(music_vocabulary == 391);

inline constexpr int32_t music_longest_shift = 100;  ///< steps
inline constexpr int64_t music_step = 10'000;        ///< microseconds

/// The step nearest to a time; ties go to the later one. The rounding error is at most 5 ms.
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

/// Ids of `notes` (as from `perform`: no two of one pitch overlap), without SOS and EOS. Onsets and offsets
/// are rounded to steps independently, counted from the start of the piece, so errors do not accumulate. A
/// pause is as few time shifts as possible, whole seconds first. Within a step, earlier notes end first, by
/// pitch; then notes start, by pitch, each preceded by its velocity if that differs from the last one and, if
/// its length rounds to zero, followed by its end.
std::vector<int32_t> encode_music(std::span<const Note> notes);

struct DecodedMusic {
  std::vector<Note> notes;  ///< by onset, then pitch; times are multiples of music_step
  int64_t duration = 0;     ///< microseconds to the last event
  int64_t restruck = 0;     ///< notes ended because their pitch was struck again
  int64_t stray_ends = 0;   ///< ends of notes that had not begun, ignored
  int64_t unended = 0;      ///< notes that still sounded at the end, ended there
};

/// Decodes any sequence of ids that a model may generate. Special ids are ignored, as are ids from
/// music_vocabulary on (models may have more ids than there are events). The velocity is that of bin 15 until
/// one is given.
DecodedMusic decode_music(std::span<const int32_t> ids);

/// Steps by which an id advances the time: 0 except for time shifts.
constexpr int64_t music_steps(int32_t id) {
  return id >= music_shift && id < music_velocity ? id - music_shift + 1 : 0;
}

/// The ids of the first `microseconds`. The last time shift is shortened to end exactly there, unless the
/// piece is shorter. Notes that sound at that moment are left open: a continuation ends them.
std::vector<int32_t> first_music(std::span<const int32_t> ids, int64_t microseconds);

/// Transposes all notes by `semitones`, or by the nearest number towards 0 that keeps every pitch within 0 to
/// 127.
std::vector<int32_t> transpose_music(std::span<const int32_t> ids, int64_t semitones);

/// Multiplies all times, counted from the start of `ids`, by `factor` (0.25 to 4), each rounded
/// independently.
std::vector<int32_t> stretch_music(std::span<const int32_t> ids, double factor);

}  // namespace perceiver
