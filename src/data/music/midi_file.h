// Parses untrusted Standard MIDI Files into the events of their tracks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace perceiver {

/// The events that affect notes; all others (programs, pitch bends, texts, system exclusive …) are skipped.
struct MidiEvent {
  enum class Kind : uint8_t { note_on, note_off, control, tempo };
  int64_t tick;     ///< from the track's start
  uint32_t tempo;   ///< tempo: microseconds per quarter note
  Kind kind;        ///< a note-on of velocity 0 is a note_off
  uint8_t channel;  ///< 0 to 15
  uint8_t key;      ///< notes: pitch 0 to 127; control: the controller's number
  uint8_t value;    ///< notes: velocity; control: the controller's value
};

struct MidiTrack {
  std::vector<MidiEvent> events;  ///< in file order, hence by tick
  int64_t end = 0;                ///< tick of the end-of-track event, or of the last event without one
};

/// Length of a tick: numerator / denominator microseconds. The numerator is the tempo if the file measures
/// time in fractions of quarter notes.
struct MidiTimeBase {
  bool follows_tempo = true;    ///< false: SMPTE time, unaffected by tempo changes
  int64_t numerator = 500'000;  ///< until the first tempo change
  int64_t denominator = 1;
};

struct MidiFile {
  int format = 0;  ///< 0: one track; 1: tracks played together; 2: tracks played one after the other
  MidiTimeBase time;
  std::vector<MidiTrack> tracks;
  /// What was repaired, a line each, e.g. "track 2 has no end-of-track event"; few, however bad the file.
  std::vector<std::string> repairs;
};

/// Limits on files.
inline constexpr uint64_t midi_most_bytes = uint64_t{16} << 20;
inline constexpr int64_t midi_most_ticks = int64_t{1} << 40;

/// Parses a file (Standard MIDI Files 1.0, MIDI Manufacturers Association RP-001). Skips unknown chunks and
/// anything after the end of a track. Running status continues after meta and system events: the standard
/// ends it there, but real files rely on it. Faults that leave no doubt about the notes are repaired and
/// listed: missing ends of tracks, wrong numbers of tracks, system messages among the events, tempos that are
/// none, RIFF around the file, a file cut short (its whole events count). Throws `user` with `source` and the
/// byte offset if the rest is malformed, or the file larger than midi_most_bytes. Uses memory of at most 12
/// times the file size; time proportional to it.
MidiFile parse_midi(std::span<const uint8_t> bytes, const std::string& source);

}  // namespace perceiver
