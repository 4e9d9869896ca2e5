#include "data/music/midi_file.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr size_t header_size = 6;

/// Reads the bytes of the file or of one chunk sequentially.
class Cursor {
 public:
  Cursor(std::span<const uint8_t> bytes, size_t first, size_t last, const std::string& source)
      : bytes_(bytes), next_(first), last_(last), source_(source) {}

  size_t offset() const { return next_; }
  size_t left() const { return last_ - next_; }

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    fail_at(next_, format, std::forward<Args>(args)...);
  }
  template <typename... Args>
  [[noreturn]] void fail_at(size_t offset, fmt::format_string<Args...> format, Args&&... args) const {
    throw_user("{}: offset {}: {}", source_, offset, fmt::format(format, std::forward<Args>(args)...));
  }

  uint8_t byte(const char* what) {
    if (left() == 0) fail("the file ends where {} should be", what);
    return bytes_[next_++];
  }
  uint8_t peek(const char* what) const {
    if (left() == 0) fail("the file ends where {} should be", what);
    return bytes_[next_];
  }
  uint32_t big_endian(int count, const char* what) {
    uint32_t value = 0;
    for (int i = 0; i < count; ++i) value = value << 8 | byte(what);
    return value;
  }
  /// A variable-length quantity: seven bits per byte, at most four bytes.
  uint32_t variable(const char* what) {
    const size_t first = next_;
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const uint8_t b = byte(what);
      value = value << 7 | (b & 0x7Fu);
      if (b < 0x80) return value;
    }
    fail_at(first, "{} has more than four bytes", what);
  }
  uint8_t data_byte(const char* what) {
    const uint8_t b = byte(what);
    if (b >= 0x80) fail_at(next_ - 1, "{} is 0x{:02X}; data bytes are below 0x80", what, b);
    return b;
  }
  /// A cursor over the next `length` bytes, which this one skips.
  Cursor part(uint64_t length, const char* what) {
    if (length > left()) fail("{} of {} bytes, but only {} are left", what, length, left());
    const size_t first = next_;
    next_ += length;
    return Cursor(bytes_, first, next_, source_);
  }
  /// The four letters of a chunk name.
  std::string_view word() {
    if (left() < 4) fail("the file ends within a chunk's name");
    next_ += 4;
    return {reinterpret_cast<const char*>(bytes_.data()) + next_ - 4, 4};
  }

 private:
  std::span<const uint8_t> bytes_;
  size_t next_;
  size_t last_;
  const std::string& source_;
};

MidiTimeBase read_time_base(Cursor& header) {
  const size_t offset = header.offset();
  const uint32_t division = header.big_endian(2, "the time division");
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

/// Reads the events of one track chunk.
class TrackReader {
 public:
  explicit TrackReader(Cursor chunk) : chunk_(chunk) {}

  MidiTrack read() {
    while (!ended_) {
      if (chunk_.left() == 0) chunk_.fail("the track ends without its end-of-track event");
      tick_ += chunk_.variable("a delta time");
      if (tick_ > midi_most_ticks) chunk_.fail("the track is longer than {} ticks", midi_most_ticks);
      read_event();
    }
    track_.end = tick_;
    return std::move(track_);
  }

 private:
  void read_event() {
    const uint8_t first = chunk_.peek("an event");
    if (first < 0x80) {
      if (running_ == 0) chunk_.fail("data byte 0x{:02X} without a status before it", first);
      return read_channel_event(running_);
    }
    const size_t offset = chunk_.offset();
    chunk_.byte("an event");
    if (first < 0xF0) return read_channel_event(running_ = first);
    if (first == 0xFF) return read_meta_event();
    if (first != 0xF0 && first != 0xF7)
      chunk_.fail_at(offset, "status 0x{:02X} does not belong in a file", first);
    const uint32_t length = chunk_.variable("a system exclusive event's length");
    chunk_.part(length, "a system exclusive event");
  }

  void read_channel_event(uint8_t status) {
    const int kind = status >> 4;
    const auto channel = static_cast<uint8_t>(status & 0x0F);
    const uint8_t key = chunk_.data_byte("an event's first value");
    if (kind == 0xC || kind == 0xD) return;  // program and channel pressure have one value
    const uint8_t value = chunk_.data_byte("an event's second value");
    if (kind == 0x9 && value > 0) return add(MidiEvent::Kind::note_on, channel, key, value);
    if (kind == 0x8 || kind == 0x9) return add(MidiEvent::Kind::note_off, channel, key, value);
    if (kind == 0xB) add(MidiEvent::Kind::control, channel, key, value);
  }

  void read_meta_event() {
    const uint8_t kind = chunk_.byte("a meta event's kind");
    const uint32_t length = chunk_.variable("a meta event's length");
    const size_t offset = chunk_.offset();
    Cursor content = chunk_.part(length, "a meta event");
    if (kind == 0x2F) ended_ = true;
    if (kind != 0x51) return;
    if (length != 3) chunk_.fail_at(offset, "a tempo of {} bytes; three are needed", length);
    const uint32_t tempo = content.big_endian(3, "a tempo");
    if (tempo == 0) chunk_.fail_at(offset, "a tempo of 0 microseconds per quarter note");
    track_.events.push_back(
        {.tick = tick_, .tempo = tempo, .kind = MidiEvent::Kind::tempo, .channel = 0, .key = 0, .value = 0});
  }

  void add(MidiEvent::Kind kind, uint8_t channel, uint8_t key, uint8_t value) {
    track_.events.push_back(
        {.tick = tick_, .tempo = 0, .kind = kind, .channel = channel, .key = key, .value = value});
  }

  Cursor chunk_;
  MidiTrack track_;
  int64_t tick_ = 0;
  uint8_t running_ = 0;  ///< the last channel event's status; 0 = none yet
  bool ended_ = false;
};

/// The next chunk called `name`; skips others.
Cursor find_chunk(Cursor& file, std::string_view name) {
  while (true) {
    if (file.left() == 0) file.fail("the file ends where a chunk {} should be", name);
    const std::string_view word = file.word();
    const uint32_t length = file.big_endian(4, "a chunk's length");
    const Cursor chunk = file.part(length, "a chunk");
    if (word == name) return chunk;
  }
}

void check_signature(std::span<const uint8_t> bytes, const std::string& source) {
  if (bytes.size() > midi_most_bytes)
    throw_user("{}: has {} bytes; the limit for MIDI files is {}", source, bytes.size(), midi_most_bytes);
  const auto starts = [&](std::string_view word) {
    return bytes.size() >= 4 && std::equal(word.begin(), word.end(), bytes.begin());
  };
  if (starts("RIFF"))
    throw_user("{}: offset 0: a MIDI file inside a RIFF file; extract it (skip the first 20 bytes)", source);
  if (!starts("MThd")) throw_user("{}: offset 0: not a MIDI file: it does not start with MThd", source);
}

}  // namespace

MidiFile parse_midi(std::span<const uint8_t> bytes, const std::string& source) {
  check_signature(bytes, source);
  Cursor file(bytes, 0, bytes.size(), source);
  Cursor header = find_chunk(file, "MThd");
  if (header.left() < header_size) header.fail("a header of {} bytes; 6 are needed", header.left());
  MidiFile midi;
  const size_t start = header.offset();
  const uint32_t format = header.big_endian(2, "the format");
  if (format > 2) header.fail_at(start, "format {}; 0, 1 and 2 exist", format);
  midi.format = static_cast<int>(format);
  const uint32_t tracks = header.big_endian(2, "the number of tracks");
  if (tracks == 0) header.fail_at(start + 2, "the file has no track");
  if (format == 0 && tracks > 1) header.fail_at(start + 2, "format 0 with {} tracks; it has one", tracks);
  midi.time = read_time_base(header);
  for (uint32_t i = 0; i < tracks; ++i) midi.tracks.push_back(TrackReader(find_chunk(file, "MTrk")).read());
  return midi;
}

}  // namespace perceiver
