#include "data/music/midi_track.h"

namespace perceiver {
namespace {

constexpr size_t tempo_size = 3;

/// Faults of one kind in a track: a file has either none or very many, so they share a line.
struct Faults {
  int64_t count = 0;
  size_t first = 0;  ///< offset of the first

  void add(size_t offset) {
    if (count++ == 0) first = offset;
  }
};

/// Data bytes of a system common or realtime message.
int system_data_bytes(uint8_t status) {
  if (status == 0xF2) return 2;
  return status == 0xF1 || status == 0xF3 ? 1 : 0;
}

class TrackReader {
 public:
  explicit TrackReader(MidiTrackChunk& chunk) : chunk_(chunk.content), length_(chunk.length) {}

  MidiTrack read() {
    while (!ended_ && chunk_.left() > 0) read_timed_event();
    track_.end = tick_;
    return std::move(track_);
  }

  void report(size_t number, uint64_t size, MidiRepairs& repairs) const {
    const auto report = [&](const Faults& faults, const char* one, const char* several) {
      if (faults.count == 1) repairs.add("track {} has {} (offset {})", number, one, faults.first);
      if (faults.count > 1)
        repairs.add("track {} has {} {} (the first at offset {})", number, faults.count, several,
                    faults.first);
    };
    report(system_, "a system message, which does not belong in a file",
           "system messages, which do not belong in a file");
    report(long_tempos_, "a tempo of more than 3 bytes", "tempos of more than 3 bytes");
    report(no_tempos_, "a tempo that is 0 or too short, which is ignored",
           "tempos that are 0 or too short, which are ignored");
    report(long_numbers_, "a number of more than four bytes", "numbers of more than four bytes");
    if (length_ > size)
      repairs.add("track {} is cut short: {} of {} bytes are there", number, size, length_);
    else if (length_ == 0)
      repairs.add("track {} is empty: it has no end-of-track event", number);
    else if (!ended_)
      repairs.add("track {} has no end-of-track event", number);
  }

 private:
  void read_timed_event() {
    const size_t start = chunk_.offset();
    const int64_t before = tick_;
    tick_ += static_cast<int64_t>(variable());
    if (tick_ > midi_most_ticks) chunk_.fail_at(start, "the track is longer than {} ticks", midi_most_ticks);
    read_event();
    if (!chunk_.cut()) return;
    const bool file_is_cut = chunk_.offset() - first_ < length_;
    if (!file_is_cut) chunk_.fail_at(start, "an event goes beyond the end of its track");
    tick_ = before;
  }

  void read_event() {
    const size_t offset = chunk_.offset();
    const uint8_t first = chunk_.peek();
    if (first < 0x80) {
      if (running_ == 0 && chunk_.left() > 0)
        chunk_.fail_at(offset, "data byte 0x{:02X} without a status before it", first);
      return read_channel_event(running_);
    }
    chunk_.byte();
    if (first < 0xF0) return read_channel_event(running_ = first);
    if (first == 0xFF) return read_meta_event(offset);
    if (first == 0xF0 || first == 0xF7) {
      chunk_.part(variable());
      return;
    }
    system_.add(offset);
    for (int i = 0; i < system_data_bytes(first); ++i) chunk_.data_byte("a system message's value");
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

  void read_meta_event(size_t offset) {
    const uint8_t kind = chunk_.byte();
    const MidiCursor content = chunk_.part(variable());
    if (chunk_.cut()) return;
    if (kind == 0x2F) ended_ = true;
    if (kind == 0x51) read_tempo(offset, content);
  }

  /// Of a longer one the first three bytes count, as other readers have it, but for leading zeros: some
  /// writers store a number of four bytes.
  void read_tempo(size_t offset, MidiCursor content) {
    const bool is_long = content.left() > tempo_size;
    while (content.left() > tempo_size && content.peek() == 0) content.byte();
    const uint32_t tempo = content.left() < tempo_size ? 0 : content.big_endian(static_cast<int>(tempo_size));
    if (tempo == 0) return no_tempos_.add(offset);
    if (is_long) long_tempos_.add(offset);
    track_.events.push_back(
        {.tick = tick_, .tempo = tempo, .kind = MidiEvent::Kind::tempo, .channel = 0, .key = 0, .value = 0});
  }

  uint64_t variable() {
    const size_t first = chunk_.offset();
    const uint64_t value = chunk_.variable();
    if (chunk_.offset() - first > 4) long_numbers_.add(first);
    return value;
  }

  void add(MidiEvent::Kind kind, uint8_t channel, uint8_t key, uint8_t value) {
    if (chunk_.cut()) return;
    track_.events.push_back(
        {.tick = tick_, .tempo = 0, .kind = kind, .channel = channel, .key = key, .value = value});
  }

  MidiCursor& chunk_;
  uint64_t length_;
  size_t first_ = chunk_.offset();
  MidiTrack track_;
  int64_t tick_ = 0;
  uint8_t running_ = 0;  ///< the last channel event's status; 0 = none yet
  bool ended_ = false;
  Faults system_, long_tempos_, no_tempos_, long_numbers_;
};

}  // namespace

MidiTrack read_midi_track(MidiTrackChunk& chunk, size_t number, MidiRepairs& repairs) {
  const size_t size = chunk.content.left();
  TrackReader reader(chunk);
  MidiTrack track = reader.read();
  reader.report(number, size, repairs);
  return track;
}

}  // namespace perceiver
