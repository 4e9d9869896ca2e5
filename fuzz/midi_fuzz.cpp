// Any input is either refused with a perceiver::Error or is music, perhaps repaired, that tokens and a
// written MIDI file reproduce within five milliseconds.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "data/music/music_tokens.h"
#include "data/music/roundtrip.h"
#include "perceiver/error.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

/// Errors must fit on one line of a terminal.
void check_message(std::string_view message) {
  for (const char c : message) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
}

void check_round_trip(std::span<const uint8_t> file) {
  const std::string source = "fuzz";
  const perceiver::MidiFile midi = perceiver::parse_midi(file, source);
  require(midi.repairs.size() <= 21);
  for (const std::string& repair : midi.repairs) check_message(repair);
  const perceiver::MusicRoundTrip trip =
      perceiver::music_round_trip(perceiver::perform(midi, source), source);
  require(trip.notes == trip.notes_after);
  require(trip.largest_onset_error <= 5000 && trip.largest_offset_error <= 5000);
  require(trip.largest_velocity_error <= 2);
}

/// The same bytes as a track of an otherwise valid file: random input almost never has a valid header. The
/// first byte selects the format, the time base and whether the file is cut short.
std::vector<uint8_t> file_with_track(std::span<const uint8_t> bytes) {
  const auto format = static_cast<uint8_t>(bytes[0] % 3);
  const auto division = static_cast<uint8_t>(bytes[0] >= 128 ? 0xE7 : 0x01);
  const uint32_t missing = bytes[0] % 128 >= 64 ? 1'000 : 0;
  const auto length = static_cast<uint32_t>(bytes.size() - 1 + 4) + missing;
  std::vector<uint8_t> file = {'M',    'T', 'h', 'd',      0,    0,   0,   6,   0,
                               format, 0,   1,   division, 0x28, 'M', 'T', 'r', 'k'};
  for (int shift = 24; shift >= 0; shift -= 8) file.push_back(static_cast<uint8_t>(length >> shift));
  file.insert(file.end(), bytes.begin() + 1, bytes.end());
  if (missing == 0) file.insert(file.end(), {0, 0xFF, 0x2F, 0});
  return file;
}

void read(std::span<const uint8_t> file) {
  try {
    check_round_trip(file);
  } catch (const perceiver::Error& error) {
    require(error.kind() == perceiver::ErrorKind::user);
    check_message(error.what());
  }
}

/// Anything a model may generate becomes notes that survive encoding and decoding.
void play(std::span<const uint8_t> bytes) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) ids.push_back((bytes[i] << 8 | bytes[i + 1]) % 400);
  const std::vector<perceiver::Note> notes = perceiver::decode_music(ids).notes;
  require(perceiver::decode_music(perceiver::encode_music(notes)).notes == notes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> input(data, size);
  read(input);
  if (size == 0) return 0;
  read(file_with_track(input));
  play(input);
  return 0;
}
