#include "data/music/roundtrip.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "data/music/midi_writer.h"
#include "data/music/music_tokens.h"

namespace perceiver {
namespace {

Performance write_and_read(std::span<const Note> notes, const std::string& source) {
  const std::string written = write_midi(notes);
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(written.data()), written.size());
  const MidiFile midi = parse_midi(bytes, source);
  PERCEIVER_ASSERT(midi.repairs.empty());
  return perform(midi, source);
}

/// By pitch, then time: rounding preserves this order, so the notes of both lists correspond one to one.
std::vector<Note> by_pitch(std::vector<Note> notes) {
  std::stable_sort(notes.begin(), notes.end(), [](const Note& a, const Note& b) {
    return std::tie(a.pitch, a.onset, a.offset) < std::tie(b.pitch, b.onset, b.offset);
  });
  return notes;
}

void compare(const Note& before, const Note& after, MusicRoundTrip& trip) {
  PERCEIVER_ASSERT(before.pitch == after.pitch);
  const auto raise = [](int64_t& largest, int64_t error) { largest = std::max(largest, std::abs(error)); };
  raise(trip.largest_onset_error, after.onset - before.onset);
  raise(trip.largest_offset_error, after.offset - before.offset);
  raise(trip.largest_velocity_error, after.velocity - before.velocity);
  if (after.offset == after.onset) ++trip.lengthless;
}

double milliseconds(int64_t microseconds) {
  return static_cast<double>(microseconds) / 1000;
}

}  // namespace

MusicRoundTrip music_round_trip(const Performance& original, const std::string& source) {
  const std::vector<int32_t> ids = encode_music(original.notes);
  const Performance again = write_and_read(decode_music(ids).notes, source + ", written again");
  MusicRoundTrip trip;
  trip.notes = static_cast<int64_t>(original.notes.size());
  trip.notes_after = static_cast<int64_t>(again.notes.size());
  trip.tokens = static_cast<int64_t>(ids.size());
  trip.duration = original.duration;
  trip.changes = original.changes;
  if (trip.notes != trip.notes_after)
    throw_failure("{}: {} notes became {} in the round trip", source, trip.notes, trip.notes_after);
  const std::vector<Note> before = by_pitch(original.notes), after = by_pitch(again.notes);
  for (size_t i = 0; i < before.size(); ++i) compare(before[i], after[i], trip);
  return trip;
}

std::string describe(const MusicRoundTrip& trip) {
  const PerformanceChanges& c = trip.changes;
  std::string text;
  const auto line = [&](const char* what, const std::string& value) {
    text += fmt::format("{:<44} {}\n", what, value);
  };
  line("length", fmt::format("{:.2f} s", milliseconds(trip.duration) / 1000));
  line("notes", fmt::format("{}", trip.notes));
  line("tokens", fmt::format("{}", trip.tokens));
  line("read: notes lengthened by the pedal", fmt::format("{}", c.sustained));
  line("read: notes cut by the same pitch", fmt::format("{}", c.cut));
  line("read: notes merged with one of their pitch", fmt::format("{}", c.merged));
  line("read: notes without an end", fmt::format("{}", c.unended));
  line("read: ends without a note", fmt::format("{}", c.stray_ends));
  line("read: percussion notes dropped", fmt::format("{}", c.percussion));
  line("tokens and back: notes", fmt::format("{}", trip.notes_after));
  line("tokens and back: largest onset error",
       fmt::format("{:.3f} ms", milliseconds(trip.largest_onset_error)));
  line("tokens and back: largest offset error",
       fmt::format("{:.3f} ms", milliseconds(trip.largest_offset_error)));
  line("tokens and back: largest velocity error", fmt::format("{} of 127", trip.largest_velocity_error));
  line("tokens and back: notes of zero length", fmt::format("{}", trip.lengthless));
  return text;
}

}  // namespace perceiver
