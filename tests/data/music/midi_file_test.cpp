#include "data/music/midi_file.h"

#include <gmock/gmock.h>

#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/midi_bytes.h"

namespace perceiver {
namespace {

using ::testing::HasSubstr;

std::string refusal(const Bytes& file) {
  try {
    parse_midi(file, "test.mid");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    return error.what();
  }
  return "read without an error";
}

// Two notes, the second in running status; a tempo; a text; system exclusive; a pedal.
Bytes busy_track() {
  Bytes events = {0x00, 0xFF, 0x03, 0x02, 'h', 'i', 0x00, 0xFF, 0x51, 0x03, 0x07, 0xA1, 0x20};
  append(events, {0x00, 0xF0, 0x03, 0x43, 0x12, 0xF7, 0x00, 0xC0, 0x05, 0x00, 0xE0, 0x00, 0x40});
  append(events, {0x0A, 0x90, 60, 100, 0x81, 0x00, 60, 0, 0x00, 0xB0, 64, 127, 0x05, 0x90, 62, 90});
  append(events, {0x05, 0x80, 62, 64});
  return track(events);
}

TEST(MidiFile, ReadsEventsWithTheirTicks) {
  const MidiFile file = parse_midi(midi(0, {busy_track()}, 480), "test.mid");
  EXPECT_EQ(file.format, 0);
  EXPECT_TRUE(file.time.follows_tempo);
  EXPECT_EQ(file.time.denominator, 480);
  ASSERT_EQ(file.tracks.size(), 1u);
  const std::vector<MidiEvent>& events = file.tracks[0].events;
  ASSERT_EQ(events.size(), 6u);
  EXPECT_EQ(events[0].kind, MidiEvent::Kind::tempo);
  EXPECT_EQ(events[0].tempo, 500'000u);
  EXPECT_EQ(events[1].kind, MidiEvent::Kind::note_on);
  EXPECT_EQ(events[1].tick, 10);
  EXPECT_EQ(events[2].kind,
            MidiEvent::Kind::note_off);  // running status, velocity 0, a two-byte delta of 128
  EXPECT_EQ(events[2].tick, 138);
  EXPECT_EQ(events[3].kind, MidiEvent::Kind::control);
  EXPECT_EQ(events[4].tick, 143);
  EXPECT_EQ(events[5].kind, MidiEvent::Kind::note_off);
  EXPECT_EQ(events[5].key, 62);
  EXPECT_EQ(file.tracks[0].end, 148);
}

TEST(MidiFile, RunningStatusSurvivesMetaEvents) {
  const Bytes events = {0x00, 0x90, 60, 100, 0x00, 0xFF, 0x01, 0x01, 'x', 0x01, 60, 0};
  EXPECT_EQ(parse_midi(midi(0, {track(events)}), "test.mid").tracks[0].events.size(), 2u);
}

TEST(MidiFile, SkipsUnknownChunksAndWhatFollowsTheLastTrack) {
  Bytes file = midi(1, {busy_track(), chunk("XFIH", {1, 2, 3}), busy_track()});
  file[11] = 2;  // two tracks: the chunk between them is none
  append(file, {1, 2, 3});
  EXPECT_EQ(parse_midi(file, "test.mid").tracks.size(), 2u);
}

TEST(MidiFile, SkipsWhatFollowsTheEndOfATrack) {
  Bytes events = {0x00, 0x90, 60, 100, 0x00, 0x80, 60, 0};
  append(events, track_end);
  append(events, {0xFF, 0xFF});
  EXPECT_EQ(parse_midi(midi(0, {chunk("MTrk", events)}), "test.mid").tracks[0].events.size(), 2u);
}

TEST(MidiFile, KnowsTheFrameRatesOfSmpte) {
  const auto base = [](int frames, uint32_t ticks) {
    return parse_midi(midi(0, {track({})}, (static_cast<uint32_t>(256 - frames) << 8) | ticks), "test.mid")
        .time;
  };
  EXPECT_FALSE(base(25, 40).follows_tempo);
  EXPECT_EQ(base(25, 40).numerator / base(25, 40).denominator, 1000);
  EXPECT_EQ(base(24, 100).denominator, 2400);
  EXPECT_EQ(base(30, 80).denominator, 2400);
  EXPECT_EQ(base(29, 100).numerator, 1'001'000);
  EXPECT_EQ(base(29, 100).denominator, 3000);
}

TEST(MidiFile, RefusesADamagedHeader) {
  EXPECT_THAT(refusal({}), HasSubstr("offset 0: not a MIDI file"));
  EXPECT_THAT(refusal({'R', 'I', 'F', 'F', 0}), HasSubstr("offset 0: not a MIDI file, but a RIFF file"));
  EXPECT_THAT(refusal(midi(1, {})), HasSubstr("offset 10: the file has no track"));
  EXPECT_THAT(refusal(midi(0, {track({})}, 0)), HasSubstr("offset 12: a quarter note has 0 ticks"));
  EXPECT_THAT(refusal(midi(0, {track({})}, 0xE700)), HasSubstr("offset 12: a SMPTE frame has 0 ticks"));
  EXPECT_THAT(refusal(midi(0, {track({})}, 0x8028)), HasSubstr("SMPTE time of 128 frames"));
  EXPECT_THAT(refusal(chunk("MThd", {0, 0, 0, 1})), HasSubstr("offset 8: a header of 4 bytes"));
  EXPECT_THAT(refusal({'M', 'T', 'h', 'd', 0, 0, 0, 9, 0, 0, 0, 1, 0, 96}),
              HasSubstr("offset 8: a header of 9 bytes, but the file has only 6 more"));
}

TEST(MidiFile, RefusesFilesWithoutATrack) {
  EXPECT_THAT(refusal(midi(0, {chunk("Junk", {1, 2, 3})})),
              HasSubstr("offset 25: the file ends where a track"));
  EXPECT_THAT(refusal(midi(0, {{'M', 'T', 'r', 'k', 0, 0}})), HasSubstr("the file ends where a track"));
}

TEST(MidiFile, ReadsALongerHeader) {
  Bytes file = chunk("MThd", {0, 0, 0, 1, 1, 0xF4, 1, 2});
  append(file, busy_track());
  EXPECT_EQ(parse_midi(file, "test.mid").tracks.size(), 1u);
  EXPECT_TRUE(parse_midi(file, "test.mid").repairs.empty());
}

// The first event of a track in a file of one track stands at offset 22.
TEST(MidiFile, RefusesDamagedEventsWithTheirOffset) {
  const auto of_event = [](const Bytes& events) { return refusal(midi(0, {track(events)})); };
  EXPECT_THAT(of_event({0x00, 60, 100}), HasSubstr("offset 23: data byte 0x3C without a status"));
  EXPECT_THAT(of_event({0x00, 0x90, 0x80, 100}), HasSubstr("offset 24: an event's first value is 0x80"));
  EXPECT_THAT(of_event({0x00, 0x90, 60, 0xFF}), HasSubstr("offset 25: an event's second value is 0xFF"));
  EXPECT_THAT(of_event({0x00, 0xF2, 1, 0x90}), HasSubstr("offset 25: a system message's value is 0x90"));
  EXPECT_THAT(of_event({0x90, 0x80, 0x80, 0x80, 0x00}),
              HasSubstr("offset 22: a number of more than 32 bits"));
  const std::string beyond = "offset 22: an event goes beyond the end of its track";
  EXPECT_THAT(of_event({0x00, 0xFF, 0x01, 0x7F, 'x'}), HasSubstr(beyond));
  EXPECT_THAT(of_event({0x00, 0xF0, 0xFF, 0xFF, 0xFF, 0x7F}), HasSubstr(beyond));
  EXPECT_THAT(refusal(midi(0, {chunk("MTrk", {0x00, 0x90, 60})})), HasSubstr(beyond));
}

TEST(MidiFile, RefusesWhatIsTooLarge) {
  EXPECT_THAT(refusal(Bytes(midi_most_bytes + 1)), HasSubstr("bytes; the limit for MIDI files is"));
  Bytes events;
  for (int i = 0; i < 4097; ++i) append(events, {0xFF, 0xFF, 0xFF, 0x7F, 0x90, 60, 1});
  EXPECT_THAT(refusal(midi(0, {track(events)})), HasSubstr("longer than"));
}

// What is left of a file has the first of its events, and a line that says so.
TEST(MidiFile, CutShortAnywhereItIsRefusedOrItsWholeEventsAreRead) {
  const Bytes whole = midi(1, {busy_track(), busy_track()});
  const MidiFile all = parse_midi(whole, "test.mid");
  EXPECT_EQ(all.tracks.size(), 2u);
  EXPECT_TRUE(all.repairs.empty());
  const size_t first_track = 14 + 8;
  size_t events = 0;
  for (size_t size = 0; size < whole.size(); ++size) {
    const Bytes part(whole.begin(), whole.begin() + static_cast<int64_t>(size));
    if (size < first_track) {
      EXPECT_THAT(refusal(part), HasSubstr("test.mid: offset ")) << size;
      continue;
    }
    const MidiFile read = parse_midi(part, "test.mid");
    EXPECT_FALSE(read.repairs.empty()) << size;
    size_t count = 0;
    for (size_t t = 0; t < read.tracks.size(); ++t)
      for (size_t i = 0; i < read.tracks[t].events.size(); ++i, ++count)
        EXPECT_EQ(read.tracks[t].events[i].tick, all.tracks[t].events[i].tick) << size;
    EXPECT_GE(count, events);
    events = count;
  }
  EXPECT_EQ(events, 12u);
}

TEST(MidiFile, AnyDamageIsRefusedOrRead) {
  const Bytes whole = midi(1, {busy_track(), busy_track()});
  RandomStream random(1, RandomPurpose::batch);
  for (int round = 0; round < 20'000; ++round) {
    Bytes damaged = whole;
    for (int i = 0; i < 3; ++i) damaged[random.below(damaged.size())] = static_cast<uint8_t>(random.next());
    try {
      for (const Note& n : played(damaged).notes) {
        ASSERT_GE(n.onset, 0);
        ASSERT_GE(n.offset, n.onset);
        ASSERT_LE(n.offset, longest_performance);
      }
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::user) << error.what();
    }
  }
}

}  // namespace
}  // namespace perceiver
