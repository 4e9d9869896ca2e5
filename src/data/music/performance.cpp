#include "data/music/performance.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr int percussion_channel = 9;  // channel 10 when counting from 1
constexpr int sustain_pedal = 64, all_sound_off = 120, reset_controllers = 121, all_notes_off = 123;
constexpr int pedal_down = 64;
constexpr int channels = 16, pitches = 128;

/// Converts ticks to microseconds. Time is an integer number of 1/denominator microseconds, so rounding only
/// happens when it is read.
class Clock {
 public:
  Clock(const MidiTimeBase& base, const std::string& source)
      : base_(base), numerator_(base.numerator), source_(source) {}

  void advance(int64_t tick) {
    // Both factors fit in 41 bits; the check on length refuses a product before it can overflow 64 bits.
    const auto passed = static_cast<double>(tick - tick_) * static_cast<double>(numerator_);
    const auto limit = static_cast<double>(longest_performance) * static_cast<double>(base_.denominator);
    if (static_cast<double>(parts_) + passed > limit)
      throw_user("{}: lasts longer than {} hours", source_, longest_performance / 3'600'000'000);
    parts_ += (tick - tick_) * numerator_;
    tick_ = tick;
  }
  void set_tempo(uint32_t tempo) {
    if (base_.follows_tempo) numerator_ = tempo;
  }
  int64_t now() const { return (parts_ + base_.denominator / 2) / base_.denominator; }

 private:
  MidiTimeBase base_;
  int64_t numerator_;
  int64_t tick_ = 0;
  int64_t parts_ = 0;
  const std::string& source_;
};

/// Keys and pedals of all channels. Collects notes in the order of their ends.
class Keyboard {
 public:
  explicit Keyboard(Performance& out) : out_(out) {}

  void strike(int track, const MidiEvent& event, int64_t now) {
    if (event.channel == percussion_channel) {
      ++out_.changes.percussion;
      return;
    }
    out_.changes.cut += end_sustained(event.channel, event.key, now);
    held_[{event.channel, track, event.key}].push_back({now, now, event.key, event.value});
  }

  void release(int track, const MidiEvent& event, int64_t now) {
    if (event.channel == percussion_channel) return;
    const auto found = held_.find({event.channel, track, event.key});
    if (found == held_.end()) {
      ++out_.changes.stray_ends;
      return;
    }
    let_go(event.channel, found->second.front(), now);
    found->second.pop_front();
    if (found->second.empty()) held_.erase(found);
  }

  void control(const MidiEvent& event, int64_t now) {
    if (event.key == sustain_pedal && event.value >= pedal_down) pedal_[event.channel] = true;
    const bool lifted = event.key == sustain_pedal && event.value < pedal_down;
    if (lifted || event.key == reset_controllers) lift_pedal(event.channel, now);
    if (event.key == all_notes_off || event.key == all_sound_off) release_all(event.channel, now);
    if (event.key == all_sound_off) end_all_sustained(event.channel, now);
  }

  void finish(int64_t now) {
    for (int channel = 0; channel < channels; ++channel) lift_pedal(channel, now);
    for (const auto& [key, notes] : held_) out_.changes.unended += static_cast<int64_t>(notes.size());
    for (int channel = 0; channel < channels; ++channel) release_all(channel, now);
  }

 private:
  using Key = std::tuple<int, int, int>;  ///< channel, track, pitch

  void end(Note note, int64_t now) {
    note.offset = now;
    out_.notes.push_back(note);
  }

  void let_go(int channel, const Note& note, int64_t now) {
    if (!pedal_[channel]) return end(note, now);
    ++out_.changes.sustained;
    sustained_[channel][note.pitch].push_back(note);
  }

  /// Returns the number of notes ended.
  int64_t end_sustained(int channel, int pitch, int64_t now) {
    std::vector<Note>& notes = sustained_[channel][pitch];
    const auto count = static_cast<int64_t>(notes.size());
    for (const Note& note : notes) end(note, now);
    notes.clear();
    return count;
  }

  void end_all_sustained(int channel, int64_t now) {
    for (int pitch = 0; pitch < pitches; ++pitch) end_sustained(channel, pitch, now);
  }

  void lift_pedal(int channel, int64_t now) {
    if (!std::exchange(pedal_[channel], false)) return;
    end_all_sustained(channel, now);
  }

  void release_all(int channel, int64_t now) {
    const auto first = held_.lower_bound({channel, -1, -1}), last = held_.lower_bound({channel + 1, -1, -1});
    for (auto entry = first; entry != last; ++entry)
      for (const Note& note : entry->second) let_go(channel, note, now);
    held_.erase(first, last);
  }

  Performance& out_;
  std::map<Key, std::deque<Note>> held_;  ///< pressed keys, oldest note first; no empty queues
  std::array<std::array<std::vector<Note>, pitches>, channels>
      sustained_;  ///< released keys held by the pedal
  std::array<bool, channels> pedal_{};
};

struct PlacedEvent {
  const MidiEvent* event;
  int track;
};

/// Events of tracks [first, last) by tick, then by track.
std::vector<PlacedEvent> in_order(const MidiFile& midi, size_t first, size_t last) {
  std::vector<PlacedEvent> events;
  for (size_t track = first; track < last; ++track)
    for (const MidiEvent& event : midi.tracks[track].events)
      events.push_back({&event, static_cast<int>(track)});
  std::stable_sort(events.begin(), events.end(),
                   [](const PlacedEvent& a, const PlacedEvent& b) { return a.event->tick < b.event->tick; });
  return events;
}

void act(const PlacedEvent& placed, int64_t now, Clock& clock, Keyboard& keyboard) {
  const MidiEvent& event = *placed.event;
  switch (event.kind) {
    case MidiEvent::Kind::note_on:
      return keyboard.strike(placed.track, event, now);
    case MidiEvent::Kind::note_off:
      return keyboard.release(placed.track, event, now);
    case MidiEvent::Kind::control:
      return keyboard.control(event, now);
    case MidiEvent::Kind::tempo:
      return clock.set_tempo(event.tempo);
  }
}

/// Plays tracks [first, last) together, starting at the end of what was played before.
void play(const MidiFile& midi, size_t first, size_t last, const std::string& source, Performance& out) {
  const int64_t start = out.duration;
  Clock clock(midi.time, source);
  Keyboard keyboard(out);
  int64_t end = 0;
  for (size_t track = first; track < last; ++track) end = std::max(end, midi.tracks[track].end);
  for (const PlacedEvent& placed : in_order(midi, first, last)) {
    clock.advance(placed.event->tick);
    act(placed, start + clock.now(), clock, keyboard);
  }
  clock.advance(end);
  out.duration = start + clock.now();
  if (out.duration > longest_performance)
    throw_user("{}: lasts longer than {} hours", source, longest_performance / 3'600'000'000);
  keyboard.finish(out.duration);
}

/// Removes overlaps between notes of one pitch.
void separate(Performance& performance) {
  std::vector<Note> notes = std::exchange(performance.notes, {});
  // Stable: simultaneous notes of zero length stay in order.
  std::stable_sort(notes.begin(), notes.end(), [](const Note& a, const Note& b) {
    return std::tie(a.pitch, a.onset, a.offset) < std::tie(b.pitch, b.onset, b.offset);
  });
  std::vector<Note>& kept = performance.notes;
  for (const Note& note : notes) {
    const bool again = !kept.empty() && kept.back().pitch == note.pitch;
    if (again && kept.back().onset == note.onset && kept.back().offset > note.onset) {
      ++performance.changes.merged;
      kept.back().offset = std::max(kept.back().offset, note.offset);
      kept.back().velocity = std::max(kept.back().velocity, note.velocity);
      continue;
    }
    if (again && kept.back().offset > note.onset) {
      ++performance.changes.cut;
      kept.back().offset = note.onset;
    }
    kept.push_back(note);
  }
  std::stable_sort(kept.begin(), kept.end(), [](const Note& a, const Note& b) {
    return std::tie(a.onset, a.pitch, a.offset) < std::tie(b.onset, b.pitch, b.offset);
  });
}

}  // namespace

Performance perform(const MidiFile& midi, const std::string& source) {
  Performance performance;
  if (midi.format == 2) {
    for (size_t track = 0; track < midi.tracks.size(); ++track)
      play(midi, track, track + 1, source, performance);
  } else {
    play(midi, 0, midi.tracks.size(), source, performance);
  }
  separate(performance);
  return performance;
}

std::vector<Note> playable(std::span<const Note> notes) {
  for (size_t i = 0; i < notes.size(); ++i) {
    const Note& note = notes[i];
    if (note.pitch < 0 || note.pitch > 127)
      throw_user("note {}: pitch {} is outside 0 to 127", i, note.pitch);
    if (note.velocity < 1 || note.velocity > 127)
      throw_user("note {}: velocity {} is outside 1 to 127", i, note.velocity);
    if (note.onset < 0 || note.offset < note.onset || note.offset > longest_performance)
      throw_user("note {}: times {} to {} us are not in order from 0 to a day", i, note.onset, note.offset);
  }
  Performance performance;
  performance.notes.assign(notes.begin(), notes.end());
  separate(performance);
  return std::move(performance.notes);
}

}  // namespace perceiver
