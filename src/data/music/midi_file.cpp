#include "data/music/midi_file.h"

#include <optional>
#include <string_view>

#include "base/check.h"
#include "data/music/midi_track.h"

namespace perceiver {
namespace {

constexpr size_t header_size = 6, chunk_start_size = 8, riff_start_size = 12;

MidiTimeBase read_time_base(MidiCursor& header) {
  const size_t offset = header.offset();
  const uint32_t division = header.big_endian(2);
  MidiTimeBase time;
  if (division < 0x8000) {
    if (division == 0) header.fail_at(offset, "a quarter note has 0 ticks");
    time.denominator = division;
    return time;
  }
  const uint32_t frames = 256 - (division >> 8), ticks = division & 0xFF;
  if (frames != 24 && frames != 25 && frames != 29 && frames != 30)
    header.fail_at(offset, "SMPTE time of {} frames per second; 24, 25, 29 and 30 exist", frames);
  if (ticks == 0) header.fail_at(offset, "a SMPTE frame has 0 ticks");
  time.follows_tempo = false;
  time.numerator = frames == 29 ? 1'001'000 : 1'000'000;  // 29 means 30 / 1.001
  time.denominator = int64_t{frames == 29 ? 30u : frames} * ticks;
  return time;
}

bool starts_with(std::span<const uint8_t> bytes, std::string_view word) {
  return bytes.size() >= word.size() && std::equal(word.begin(), word.end(), bytes.begin());
}

/// The MIDI file inside a RIFF file of the form RMID (MIDI Manufacturers Association RP-029).
MidiCursor open_riff(std::span<const uint8_t> bytes, const std::string& source) {
  MidiCursor file(bytes, source);
  if (bytes.size() < riff_start_size || !starts_with(bytes.subspan(8), "RMID"))
    file.fail_at(0, "not a MIDI file, but a RIFF file of another kind");
  file.move_to(riff_start_size);
  while (file.left() >= chunk_start_size) {
    const std::string_view name = file.word();
    const uint64_t length = file.little_endian(4);
    if (name == "data") return file.part(length);
    file.part(length + length % 2);  // chunks start at even offsets
  }
  file.fail_at(0, "a RIFF file without the chunk 'data' in which its MIDI file should be");
}

MidiCursor open_file(std::span<const uint8_t> bytes, const std::string& source, MidiRepairs& repairs) {
  if (bytes.size() > midi_most_bytes)
    throw_user("{}: has {} bytes; the limit for MIDI files is {}", source, bytes.size(), midi_most_bytes);
  if (!starts_with(bytes, "RIFF")) return {bytes, source};
  MidiCursor file = open_riff(bytes, source);
  repairs.add("is inside a RIFF file (from offset {})", file.offset());
  return file;
}

struct Header {
  uint32_t format;
  uint32_t tracks;
  MidiTimeBase time;
};

Header read_header(MidiCursor& file, MidiRepairs& repairs) {
  const size_t offset = file.offset();
  if (file.left() < chunk_start_size || file.word() != "MThd")
    file.fail_at(offset, "not a MIDI file: it does not start with MThd");
  const uint64_t length = file.big_endian(4);
  MidiCursor content = file.part(length);
  const size_t start = content.offset();
  if (length < header_size) file.fail_at(start, "a header of {} bytes; 6 are needed", length);
  if (file.cut())
    file.fail_at(start, "a header of {} bytes, but the file has only {} more", length, content.left());
  Header header{.format = content.big_endian(2), .tracks = content.big_endian(2), .time = {}};
  if (header.tracks == 0) file.fail_at(start + 2, "the file has no track");
  header.time = read_time_base(content);
  if (header.format <= 2) return header;
  repairs.add("has format {}; 0, 1 and 2 exist, so its tracks are played together", header.format);
  header.format = 1;
  return header;
}

/// The next track, if there is one. Skips other chunks, and what cannot be a chunk.
std::optional<MidiTrackChunk> next_track(MidiCursor& file) {
  size_t gap = 0;
  while (file.left() >= chunk_start_size) {
    const size_t start = file.offset();
    const bool is_track = file.word() == "MTrk";
    const uint64_t length = file.big_endian(4);
    if (is_track) return MidiTrackChunk{.content = file.part(length), .length = length, .gap = gap};
    if (length <= file.left()) {
      file.part(length);
      continue;
    }
    const size_t track = file.find("MTrk", start + 1);
    gap += track - start;
    file.move_to(track);
  }
  return std::nullopt;
}

/// Reads a track and leaves `file` behind it: behind its events if its length cannot be true.
MidiTrack read_track(MidiCursor& file, MidiTrackChunk& chunk, size_t number, MidiRepairs& repairs) {
  if (chunk.gap > 0) repairs.add("has stray bytes before track {}: {}", number, chunk.gap);
  const bool cut = chunk.length > chunk.content.left();
  MidiTrack track = read_midi_track(chunk, number, repairs);
  if (cut) file.move_to(chunk.content.offset());
  return track;
}

/// The number of tracks after those that the header announces.
size_t count_tracks(MidiCursor& file) {
  size_t count = 0;
  for (auto chunk = next_track(file); chunk && chunk->gap == 0; chunk = next_track(file)) ++count;
  return count;
}

}  // namespace

MidiFile parse_midi(std::span<const uint8_t> bytes, const std::string& source) {
  MidiRepairs repairs;
  MidiFile midi;
  MidiCursor file = open_file(bytes, source, repairs);
  const Header header = read_header(file, repairs);
  midi.format = static_cast<int>(header.format);
  midi.time = header.time;
  while (midi.tracks.size() < header.tracks) {
    std::optional<MidiTrackChunk> chunk = next_track(file);
    if (!chunk) break;
    midi.tracks.push_back(read_track(file, *chunk, midi.tracks.size() + 1, repairs));
  }
  const size_t found = midi.tracks.size();
  if (found == 0) file.fail_at(file.offset(), "the file ends where a track should be");
  if (found < header.tracks)
    repairs.add("has {} of the {} tracks that its header announces", found, header.tracks);
  if (midi.format == 0 && found > 1)
    repairs.add("has format 0, but {} tracks; they are played together", found);
  if (const size_t more = count_tracks(file); more > 0)
    repairs.add("has {} tracks, but its header announces {}; the others are not read", found + more, found);
  midi.repairs = std::move(repairs).lines();
  return midi;
}

}  // namespace perceiver
