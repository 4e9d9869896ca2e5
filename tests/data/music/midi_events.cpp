// Prints what the library reads from MIDI files, a line of JSON per file, for tools/compare_midi.py: the
// events of each track, the notes of the performance, and what was repaired or why the file was refused.
#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "data/music/performance.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

using nlohmann::json;

std::vector<uint8_t> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// [tick, kind, channel, key, value], or [tick, "tempo", microseconds per quarter note].
json describe(const MidiEvent& event) {
  static const char* const kinds[] = {"on", "off", "control", "tempo"};
  const char* kind = kinds[static_cast<int>(event.kind)];
  if (event.kind == MidiEvent::Kind::tempo) return {event.tick, kind, event.tempo};
  return {event.tick, kind, event.channel, event.key, event.value};
}

json describe(const std::string& path) {
  json line = {{"path", path}};
  try {
    const MidiFile midi = parse_midi(read_bytes(path), path);
    line["format"] = midi.format;
    line["repairs"] = midi.repairs;
    line["tracks"] = json::array();
    for (const MidiTrack& track : midi.tracks) {
      json events = json::array();
      for (const MidiEvent& event : track.events) events.push_back(describe(event));
      line["tracks"].push_back({{"end", track.end}, {"events", events}});
    }
    line["notes"] = json::array();
    for (const Note& note : perform(midi, path).notes)
      line["notes"].push_back({note.onset, note.offset, note.pitch, note.velocity});
  } catch (const Error& error) {
    line["error"] = error.what();
  }
  return line;
}

}  // namespace
}  // namespace perceiver

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) fmt::print("{}\n", perceiver::describe(std::string(arguments[i])).dump());
  return 0;
}
