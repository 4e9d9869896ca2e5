// Plays a MIDI file: notes with absolute times, with the sustain pedal folded into their lengths.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/music/midi_file.h"
#include "perceiver/media.h"

namespace perceiver {

/// What was changed in playing the file.
struct PerformanceChanges {
  int64_t percussion = 0;  ///< notes of the percussion channel (10), dropped
  int64_t sustained = 0;   ///< notes lengthened by the pedal
  int64_t cut = 0;         ///< notes ended because their pitch was struck again
  int64_t merged = 0;      ///< notes that started together with another of the same pitch, merged with it
  int64_t unended = 0;     ///< notes without an end, ended at the end of the file
  int64_t stray_ends = 0;  ///< ends without a note
};

struct Performance {
  std::vector<Note> notes;  ///< by onset, then pitch; no two of one pitch overlap
  int64_t duration = 0;     ///< microseconds to the last event of the file
  PerformanceChanges changes;
};

/// Longest file accepted, microseconds: a day.
inline constexpr int64_t longest_performance = int64_t{86'400} * 1'000'000;

/// Plays all channels except percussion as one instrument. Tracks of format 1 are played together, sharing
/// tempo and pedals; those of format 2 one after the other, each starting at tempo 120. A note-off ends the
/// oldest sounding note of its track, channel and pitch. Controller 64 at 64 or more (the pedal) holds the
/// notes of its channel until it is released or their pitch is struck again in that channel; "all notes off"
/// and "all sound off" end them, "reset" releases the pedal. If notes of one pitch overlap, the earlier one
/// ends at the onset of the later one. Times are exact up to rounding to microseconds, regardless of the
/// number of tempo changes. Throws `user` if the file lasts longer than longest_performance.
Performance perform(const MidiFile& midi, const std::string& source);

/// Notes in any order as `perform` returns them: sorted, without overlaps in one pitch. Throws `user` naming
/// the first note that is out of range.
std::vector<Note> playable(std::span<const Note> notes);

}  // namespace perceiver
