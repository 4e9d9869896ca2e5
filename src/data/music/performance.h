// What a MIDI file sounds like: notes with absolute times, the sustain pedal folded into their lengths.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/music/midi_file.h"

namespace perceiver {

/// Times in microseconds from the beginning.
struct Note {
  int64_t onset = 0;
  int64_t offset = 0;     ///< ≥ onset
  int32_t pitch = 60;     ///< 0 to 127, 60 is the middle C
  int32_t velocity = 64;  ///< 1 to 127

  bool operator==(const Note&) const = default;
};

/// How reading changed what the file says.
struct PerformanceChanges {
  int64_t percussion = 0;  ///< notes of the percussion channel (10), left out
  int64_t sustained = 0;   ///< notes that the pedal lengthened
  int64_t cut = 0;         ///< notes ended because their pitch was struck again
  int64_t merged = 0;      ///< notes that began together with another of their pitch, and became one with it
  int64_t unended = 0;     ///< notes without an end, ended with the file
  int64_t stray_ends = 0;  ///< ends of notes that had not begun
};

struct Performance {
  std::vector<Note> notes;  ///< by onset, then pitch; no two of one pitch sound at once
  int64_t duration = 0;     ///< microseconds to the last event of the file
  PerformanceChanges changes;
};

/// Longest file that is played, microseconds: a day.
inline constexpr int64_t longest_performance = int64_t{86'400} * 1'000'000;

/// All channels but percussion as one instrument. Tracks of format 1 are played together, sharing tempo and
/// pedals; those of format 2 one after the other, each from the tempo 120. A note's end belongs to the oldest
/// sounding note of its track, channel and pitch. Controller 64 from 64 on holds the notes of its channel
/// until it is let go or their pitch is struck again in that channel; "all notes off" and "all sound off" end
/// them, "reset" lets the pedal go. A pitch sounds once at a time: where notes of one pitch overlap, the
/// earlier one ends with the later one's onset. Times are exact up to the rounding to whole microseconds,
/// however many tempo changes there are. Throws `user` if the file lasts longer than longest_performance.
Performance perform(const MidiFile& midi, const std::string& source);

}  // namespace perceiver
