#include "data/music/midi_writer.h"

#include <algorithm>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr int64_t microseconds_per_tick = 1000;
constexpr uint32_t ticks_per_quarter = 500, written_tempo = 500'000;

struct KeyEvent {
  int64_t tick;
  size_t note;
  bool on;
};

void put(std::string& out, uint32_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

void put_variable(std::string& out, uint32_t value) {
  for (int shift = 21; shift > 0; shift -= 7)
    if (value >> shift != 0) out.push_back(static_cast<char>(0x80 | (value >> shift & 0x7F)));
  out.push_back(static_cast<char>(value & 0x7F));
}

int64_t tick_of(int64_t time) {
  if (time < 0 || time > longest_performance)
    throw_user("a note at {} microseconds; MIDI is written from 0 to {}", time, longest_performance);
  return (time + microseconds_per_tick / 2) / microseconds_per_tick;
}

/// At each tick, ends come before starts, except that a note of zero length ends right after its start.
std::vector<KeyEvent> key_events(std::span<const Note> notes) {
  std::vector<KeyEvent> events;
  for (size_t i = 0; i < notes.size(); ++i) {
    PERCEIVER_ASSERT(notes[i].pitch >= 0 && notes[i].pitch < 128 && notes[i].offset >= notes[i].onset);
    PERCEIVER_ASSERT(notes[i].velocity >= 1 && notes[i].velocity < 128);
    events.push_back({tick_of(notes[i].onset), i, true});
    events.push_back({tick_of(notes[i].offset), i, false});
  }
  const auto rank = [&](const KeyEvent& event) {
    const Note& note = notes[event.note];
    const bool first = !event.on && tick_of(note.onset) < event.tick;
    return std::tuple(event.tick, !first, first ? 0 : note.onset, event.note, !event.on);
  };
  std::sort(events.begin(), events.end(),
            [&](const KeyEvent& a, const KeyEvent& b) { return rank(a) < rank(b); });
  return events;
}

std::string track(std::span<const Note> notes) {
  std::string out;
  out.append({0, '\xFF', 0x51, 3});
  put(out, written_tempo, 3);
  out.append({0, '\xC0', 0});  // acoustic grand piano
  int64_t tick = 0;
  uint8_t status = 0;
  for (const KeyEvent& event : key_events(notes)) {
    put_variable(out, static_cast<uint32_t>(event.tick - tick));
    tick = event.tick;
    if (status != 0x90) out.push_back(static_cast<char>(status = 0x90));
    out.push_back(static_cast<char>(notes[event.note].pitch));
    out.push_back(static_cast<char>(event.on ? notes[event.note].velocity : 0));
  }
  out.append({0, '\xFF', 0x2F, 0});
  return out;
}

}  // namespace

std::string write_midi(std::span<const Note> notes) {
  const std::string events = track(notes);
  std::string out = "MThd";
  put(out, 6, 4);
  put(out, 0, 2);
  put(out, 1, 2);
  put(out, ticks_per_quarter, 2);
  out += "MTrk";
  put(out, static_cast<uint32_t>(events.size()), 4);
  return out + events;
}

}  // namespace perceiver
