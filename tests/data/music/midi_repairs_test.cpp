// Files that break the standard without leaving a doubt about their notes.
#include "data/music/midi_repairs.h"

#include <gmock/gmock.h>

#include "data/modality.h"
#include "perceiver/error.h"
#include "tests/support/midi_bytes.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A note of 100 ticks (of a millisecond), then a delta time of 20.
Bytes tune(uint8_t key) {
  return {0x00, 0x90, key, 80, 100, 0x80, key, 64, 20};
}

Bytes joined(const std::vector<Bytes>& parts) {
  Bytes all;
  for (const Bytes& part : parts) append(all, part);
  return all;
}

/// A track of one note that claims `length` bytes.
Bytes claiming(uint32_t length, const Bytes& end) {
  Bytes track = chunk("MTrk", joined({{0x00, 0x90, 60, 80, 100, 0x80, 60, 64}, end}));
  const Bytes claimed = big_endian(length, 4);
  std::copy(claimed.begin(), claimed.end(), track.begin() + 4);
  return track;
}

Bytes announcing(uint8_t tracks, Bytes file) {
  file[11] = tracks;
  return file;
}

Bytes little_endian(uint32_t value) {
  const Bytes bytes = big_endian(value, 4);
  return {bytes.rbegin(), bytes.rend()};
}

Bytes text(const std::string& letters) {
  return {letters.begin(), letters.end()};
}

Bytes riff(const Bytes& file) {
  const auto size = static_cast<uint32_t>(file.size());
  return joined({text("RIFF"),
                 little_endian(size + 24),
                 text("RMID"),
                 text("DISP"),
                 little_endian(3),
                 {1, 2, 3, 0},
                 text("data"),
                 little_endian(size),
                 file});
}

const Bytes no_end = chunk("MTrk", {0x00, 0x90, 60, 80, 100, 0x80, 60, 64});
const Bytes sound = track({0x00, 0x90, 60, 80, 100, 0x80, 60, 64});
const Bytes other = track({0x00, 0x90, 62, 80, 100, 0x80, 62, 64});
const Note first = note(0, 100, 60, 80), second = note(0, 100, 62, 80);
const Note later = note(120, 220, 62, 80);

/// The second half of a track: another note at 120 ticks.
const Bytes later_tune = {0x90, 62, 80, 100, 0x80, 62, 64, 0};

struct Case {
  const char* name;
  Bytes file;
  std::vector<Note> notes;
  std::string repair;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

/// Bytes of a system message at offset 31, after the tune, then the rest of the track.
Case system_message(const char* name, Bytes bytes) {
  bytes.push_back(0);
  return {name,
          midi(0, {chunk("MTrk", joined({tune(60), bytes, later_tune, {0xFF, 0x2F, 0}}))}),
          {first, later},
          "track 1 has a system message, which does not belong in a file (offset 31)"};
}

/// A tempo event at offset 23, before the tune.
Case tempo(const char* name, const Bytes& value, int64_t milliseconds, const std::string& repair) {
  const Bytes start = {0, 0xFF, 0x51, static_cast<uint8_t>(value.size())};
  return {name,
          midi(0, {chunk("MTrk", joined({start, value, tune(60), {0xFF, 0x2F, 0}}))}),
          {note(0, milliseconds, 60, 80)},
          "track 1 has a tempo " + repair + " (offset 23)"};
}

std::vector<Case> cases() {
  const std::string length = "of more than 3 bytes";
  const std::string none = "that is 0 or too short, which is ignored";
  return {
      {"NoEnd", midi(0, {no_end}), {first}, "track 1 has no end-of-track event"},
      {"NoEndInTheFirstOfTwo",
       midi(1, {no_end, other}),
       {first, second},
       "track 1 has no end-of-track event"},
      {"EmptyTrack",
       midi(1, {chunk("MTrk", {}), other}),
       {second},
       "track 1 is empty: it has no end-of-track event"},
      {"TwoTracksInFormat0",
       midi(0, {sound, other}),
       {first, second},
       "has format 0, but 2 tracks; they are played together"},
      {"UnknownFormat",
       midi(3, {sound, other}),
       {first, second},
       "has format 3; 0, 1 and 2 exist, so its tracks are played together"},
      {"FewerTracks",
       announcing(3, midi(1, {sound, other})),
       {first, second},
       "has 2 of the 3 tracks that its header announces"},
      {"ForeignChunkCounted",
       midi(1, {sound, chunk("XFIH", {1, 2, 3}), other}),
       {first, second},
       "has 2 of the 3 tracks that its header announces"},
      {"MoreTracks",
       announcing(1, midi(1, {sound, other})),
       {first},
       "has 2 tracks, but its header announces 1; the others are not read"},
      {"StrayBytesBetweenTracks",
       announcing(2, midi(1, {sound, {0}, other})),
       {first, second},
       "has stray bytes before track 2: 1"},
      system_message("TimeCode", {0xF1, 0x20}),
      system_message("SongPosition", {0xF2, 1, 2}),
      system_message("SongSelect", {0xF3, 1}),
      system_message("UndefinedF4", {0xF4}),
      system_message("UndefinedF5", {0xF5}),
      system_message("TuneRequest", {0xF6}),
      system_message("Clock", {0xF8}),
      system_message("UndefinedF9", {0xF9}),
      system_message("Start", {0xFA}),
      system_message("Continue", {0xFB}),
      system_message("Stop", {0xFC}),
      system_message("UndefinedFD", {0xFD}),
      system_message("ActiveSensing", {0xFE}),
      {"RunningStatusAcrossAClock",
       midi(0, {track({0, 0x90, 60, 80, 50, 0xF8, 50, 60, 0})}),
       {first},
       "track 1 has a system message, which does not belong in a file (offset 27)"},
      {"ManyClocks",
       midi(0, {track({0, 0x90, 60, 80, 50, 0xF8, 25, 0xF8, 25, 60, 0})}),
       {first},
       "track 1 has 2 system messages, which do not belong in a file (the first at offset 27)"},
      tempo("TempoZero", {0, 0, 0}, 100, none),
      tempo("TempoOfNoBytes", {}, 100, none),
      tempo("TempoOfTwoBytes", {0x0F, 0x42}, 100, none),
      tempo("TempoAndAByteMore", {0x0F, 0x42, 0x40, 0}, 200, length),
      tempo("TempoOfFourBytes", {0, 0x0F, 0x42, 0x40}, 200, length),
      {"LongDelta",
       midi(0, {track({0x80, 0x80, 0x80, 0x80, 0x00, 0x90, 60, 80, 100, 60, 0})}),
       {first},
       "track 1 has a number of more than four bytes (offset 22)"},
      {"Riff", riff(midi(0, {sound})), {first}, "is inside a RIFF file (from offset 32)"},
      {"CutWithinTheEnd",
       midi(0, {claiming(12, {0, 0xFF, 0x2F})}),
       {first},
       "track 1 is cut short: 11 of 12 bytes are there"},
      {"CutWithinANote",
       midi(0, {claiming(90, {5, 0x90, 62})}),
       {first},
       "track 1 is cut short: 11 of 90 bytes are there"},
      {"CutWithinText",
       midi(0, {claiming(90, {5, 0xFF, 1, 80, 'a', 'b'})}),
       {first},
       "track 1 is cut short: 14 of 90 bytes are there"},
      {"LengthOfFourGigabytes",
       midi(1, {claiming(0xFFFFFFFF, track_end), other}),
       {first, second},
       "track 1 is cut short: 32 of 4294967295 bytes are there"},
  };
}

class MidiRepair : public ::testing::TestWithParam<Case> {};

TEST_P(MidiRepair, ReadsTheNotesAndSaysSo) {
  const MidiFile file = parse_midi(GetParam().file, "test.mid");
  EXPECT_EQ(perform(file, "test.mid").notes, GetParam().notes);
  EXPECT_THAT(file.repairs, ElementsAre(GetParam().repair));
}

TEST_P(MidiRepair, IsReportedOrRefusedIfStrict) {
  const auto modality = open_modality("music", {});
  std::vector<std::string> repairs;
  SourceFile file{
      .path = "test.mid", .bytes = std::as_bytes(std::span(GetParam().file)), .repairs = &repairs};
  EXPECT_EQ(modality->encode(file).size(), 1u);
  EXPECT_EQ(repairs, parse_midi(GetParam().file, "test.mid").repairs);
  modality->compare(file);
  EXPECT_EQ(repairs.size(), 2u);
  file.strict = true;
  try {
    modality->encode(file);
    FAIL() << "read";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    EXPECT_EQ(std::string(error.what()), "test.mid: " + repairs[0]);
  }
}

INSTANTIATE_TEST_SUITE_P(Music, MidiRepair, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

TEST(MidiRepairs, SoundFilesHaveNone) {
  EXPECT_TRUE(
      parse_midi(announcing(2, midi(1, {sound, chunk("XFIH", {1}), other})), "test.mid").repairs.empty());
  EXPECT_TRUE(parse_midi(midi(0, {sound}), "test.mid").repairs.empty());
  EXPECT_TRUE(parse_midi(midi(1, {sound, other}), "test.mid").repairs.empty());
  EXPECT_TRUE(parse_midi(midi(2, {sound, other}), "test.mid").repairs.empty());
  EXPECT_TRUE(parse_midi(joined({midi(0, {sound}), {0, 1, 2}}), "test.mid").repairs.empty());
}

TEST(MidiRepairs, AreFewInTheWorstOfFiles) {
  const Bytes file = midi(1, std::vector<Bytes>(1000, no_end));
  const std::vector<std::string> repairs = parse_midi(file, "test.mid").repairs;
  ASSERT_EQ(repairs.size(), 21u);
  EXPECT_EQ(repairs[19], "track 20 has no end-of-track event");
  EXPECT_EQ(repairs[20], "and 980 more faults");
  EXPECT_EQ(played(file).notes.size(), 1u);
}

TEST(MidiRepairs, AHeaderMayAnnounceMoreTracksThanThereCanBe) {
  Bytes file = midi(1, {sound});
  file[10] = file[11] = 0xFF;
  EXPECT_THAT(parse_midi(file, "test.mid").repairs,
              ElementsAre("has 1 of the 65535 tracks that its header announces"));
}

TEST(MidiRepairs, RiffMayHoldOtherThings) {
  const auto refusal = [](const Bytes& file) -> std::string {
    try {
      parse_midi(file, "test.mid");
    } catch (const Error& error) {
      return error.what();
    }
    return "read";
  };
  EXPECT_THAT(refusal(joined({text("RIFF"), little_endian(4), text("WAVE")})),
              HasSubstr("RIFF file of another"));
  EXPECT_THAT(refusal(joined({text("RIFF"), little_endian(4), text("RMID")})),
              HasSubstr("without the chunk 'data'"));
  EXPECT_THAT(refusal(riff({1, 2, 3, 4, 5, 6, 7, 8})), HasSubstr("offset 32: not a MIDI file"));
}

/// The pedal is down from the start and lifted after 150 ms by an event behind the repaired one.
TEST(MidiRepairs, LeaveThePedalAlone) {
  const Bytes events = {0, 0xB0, 64, 127, 0, 0x90, 60, 80, 100, 60, 0, 50, 0xB0, 64, 0, 0, 0xB0, 7, 90};
  Bytes repaired = events;
  repaired.insert(repaired.begin() + 8, {0, 0xFE});
  const Performance plain = played(midi(0, {track(events)}));
  EXPECT_EQ(plain.notes, std::vector<Note>{note(0, 150, 60, 80)});
  EXPECT_EQ(played(midi(0, {chunk("MTrk", repaired)})).notes, plain.notes);
}

}  // namespace
}  // namespace perceiver
