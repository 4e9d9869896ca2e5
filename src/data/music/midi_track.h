// Reads the events of one track of a MIDI file.
#pragma once

#include "data/music/midi_cursor.h"
#include "data/music/midi_file.h"
#include "data/music/midi_repairs.h"

namespace perceiver {

/// A track's chunk without its name and length.
struct MidiTrackChunk {
  MidiCursor content;
  uint64_t length = 0;  ///< as the chunk claims; more than `content` has if the file is cut short
  size_t gap = 0;       ///< bytes before the chunk that belong to none
};

/// Reads up to the end-of-track event, or all there is; leaves `chunk.content` behind the last event read.
/// Adds to `repairs` what was repaired in the track with that number, counted from 1. Throws `user` if events
/// make no sense or go beyond a chunk that is complete.
MidiTrack read_midi_track(MidiTrackChunk& chunk, size_t number, MidiRepairs& repairs);

}  // namespace perceiver
