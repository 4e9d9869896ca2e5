// Builds MIDI files byte by byte.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "data/music/midi_file.h"
#include "data/music/performance.h"

namespace perceiver {

using Bytes = std::vector<uint8_t>;

inline void append(Bytes& to, const Bytes& more) {
  to.insert(to.end(), more.begin(), more.end());
}

inline Bytes big_endian(uint32_t value, int bytes) {
  Bytes out;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
    out.push_back(static_cast<uint8_t>(value >> shift));
  return out;
}

inline Bytes chunk(const std::string& name, const Bytes& content) {
  Bytes out(name.begin(), name.end());
  append(out, big_endian(static_cast<uint32_t>(content.size()), 4));
  append(out, content);
  return out;
}

inline const Bytes track_end = {0x00, 0xFF, 0x2F, 0x00};

/// A track chunk with these events and an end after `rest` ticks (below 128).
inline Bytes track(Bytes events, uint8_t rest = 0) {
  events.push_back(rest);
  events.insert(events.end(), track_end.begin() + 1, track_end.end());
  return chunk("MTrk", events);
}

/// A file with these track chunks. With a division of 500, a tick is a millisecond at the initial tempo.
inline Bytes midi(int format, const std::vector<Bytes>& tracks, uint32_t division = 500) {
  Bytes header = big_endian(static_cast<uint32_t>(format), 2);
  append(header, big_endian(static_cast<uint32_t>(tracks.size()), 2));
  append(header, big_endian(division, 2));
  Bytes out = chunk("MThd", header);
  for (const Bytes& part : tracks) append(out, part);
  return out;
}

inline Performance played(const Bytes& file) {
  return perform(parse_midi(file, "test.mid"), "test.mid");
}

/// A note with times in milliseconds.
inline Note note(int64_t onset, int64_t offset, int32_t pitch, int32_t velocity) {
  return {onset * 1000, offset * 1000, pitch, velocity};
}

}  // namespace perceiver
