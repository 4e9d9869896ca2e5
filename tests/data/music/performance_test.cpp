#include "data/music/performance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/error.h"
#include "tests/support/midi_bytes.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Performance play_track(const Bytes& events, uint32_t division = 500, uint8_t rest = 0) {
  return played(midi(0, {track(events, rest)}, division));
}

TEST(Performance, TicksBecomeMicroseconds) {
  const Performance p = play_track({100, 0x90, 60, 80, 50, 0x80, 60, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(100, 150, 60, 80)));
  EXPECT_EQ(p.duration, 150'000);
}

TEST(Performance, FollowsTempoChanges) {
  // 96 ticks to the quarter: half a second, then (tempo of one second) one, then (a quarter) a quarter.
  Bytes events = {0, 0x90, 60, 80, 96, 0xFF, 0x51, 3, 0x0F, 0x42, 0x40, 96, 0x90, 60, 0};
  append(events, {0, 0x90, 61, 80, 0, 0xFF, 0x51, 3, 0x03, 0xD0, 0x90, 96, 61, 0});
  EXPECT_THAT(play_track(events, 96).notes, ElementsAre(note(0, 1500, 60, 80), note(1500, 1750, 61, 80)));
}

TEST(Performance, ATempoChangeInAnyTrackHoldsForAll) {
  const Bytes tempo = track({0, 0xFF, 0x51, 3, 0x0F, 0x42, 0x40});
  const Bytes notes = track({0, 0x90, 60, 80, 96, 60, 0});
  EXPECT_THAT(played(midi(1, {tempo, notes}, 96)).notes, ElementsAre(note(0, 1000, 60, 80)));
  EXPECT_THAT(played(midi(1, {notes, tempo}, 96)).notes, ElementsAre(note(0, 1000, 60, 80)));
}

TEST(Performance, RoundingDoesNotAddUp) {
  // A third of a microsecond is left over at each of the thousand steps of one tick, if each were rounded.
  Bytes events = {0, 0x90, 60, 80};
  for (int i = 0; i < 1000; ++i)
    append(events, {1, 0xFF, 0x51, 3, 0x07, 0xA1, static_cast<uint8_t>(0x20 + i % 2)});
  append(events, {0, 0x80, 60, 0});
  const Performance p = play_track(events, 480);
  ASSERT_EQ(p.notes.size(), 1u);
  // 500 ticks of 500000 and 500 of 500001 parts of 1 / 480 of a microsecond, the first tick being of 500000.
  EXPECT_EQ(p.notes[0].offset, (500LL * 500'000 + 500LL * 500'001 + 240 - 0) / 480);
}

TEST(Performance, SmpteTimeIgnoresTempo) {
  const Bytes events = {0, 0xFF, 0x51, 3, 0x0F, 0x42, 0x40, 10, 0x90, 60, 80, 40, 60, 0};
  EXPECT_THAT(play_track(events, 0xE728).notes, ElementsAre(note(10, 50, 60, 80)));  // 25 frames of 40 ticks
  // 29.97 frames a second: 100 ticks of one frame are 1001 / 30 ms.
  const Performance drop = play_track({0, 0x90, 60, 80, 100, 60, 0}, (256 - 29) << 8 | 100);
  ASSERT_EQ(drop.notes.size(), 1u);
  EXPECT_EQ(drop.notes[0].offset, 33'367);
}

TEST(Performance, TracksOfFormat2FollowOneAnother) {
  const Bytes slow = track({0, 0xFF, 0x51, 3, 0x0F, 0x42, 0x40, 0, 0x90, 60, 80, 96, 60, 0}, 96);
  const Bytes plain = track({0, 0x90, 62, 80, 96, 62, 0});
  const Performance p = played(midi(2, {slow, plain}, 96));
  EXPECT_THAT(p.notes, ElementsAre(note(0, 1000, 60, 80), note(2000, 2500, 62, 80)));
  EXPECT_EQ(p.duration, 2'500'000);
}

TEST(Performance, AFormat2PedalEndsWithItsTrack) {
  const Bytes pedal = track({0, 0xB0, 64, 127, 0, 0x90, 60, 80, 10, 60, 0}, 90);
  const Bytes plain = track({0, 0x90, 62, 80, 20, 62, 0}, 80);
  EXPECT_THAT(played(midi(2, {pedal, plain})).notes,
              ElementsAre(note(0, 100, 60, 80), note(100, 120, 62, 80)));
}

TEST(Performance, ThePedalHoldsNotesUntilItIsLetGo) {
  const Performance p =
      play_track({0,  0x90, 60, 80, 0,  0xB0, 64, 127, 10, 0x80, 60, 0, 10, 0x90, 62, 70,  //
                  10, 0x80, 62, 0,  10, 0xB0, 64, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(0, 40, 60, 80), note(20, 40, 62, 70)));
  EXPECT_EQ(p.changes.sustained, 2);
}

TEST(Performance, ThePedalIsDownFrom64On) {
  const auto offset = [](uint8_t value) {
    return play_track({0, 0xB0, 64, value, 0, 0x90, 60, 80, 10, 60, 0, 10, 0xB0, 64, 0}).notes.at(0).offset;
  };
  EXPECT_EQ(offset(63), 10'000);
  EXPECT_EQ(offset(64), 20'000);
}

TEST(Performance, AKeyStillDownOutlastsThePedal) {
  const Performance p = play_track({0, 0xB0, 64, 127, 0, 0x90, 60, 80, 10, 0xB0, 64, 0, 10, 0x90, 60, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(0, 20, 60, 80)));
  EXPECT_EQ(p.changes.sustained, 0);
}

TEST(Performance, StrikingAHeldPitchAgainEndsIt) {
  const Performance p = play_track({0,  0xB0, 64, 127, 0, 0x90, 60, 80, 10, 60, 0, 10, 60, 90, 10, 60, 0,  //
                                    10, 0xB0, 64, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(0, 20, 60, 80), note(20, 40, 60, 90)));
  EXPECT_EQ(p.changes.cut, 1);
}

TEST(Performance, ThePedalPressedAgainAtTheSameTickLetsGoFirst) {
  const Performance p = play_track({0, 0xB0, 64, 127, 0,  0x90, 60, 80, 10, 60, 0, 10, 0xB0, 64, 0,  //
                                    0, 0xB0, 64, 127, 30, 0xB0, 64, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(0, 20, 60, 80)));
}

TEST(Performance, APedalNeverLetGoHoldsToTheEnd) {
  const Performance p = play_track({0, 0xB0, 64, 127, 0, 0x90, 60, 80, 10, 60, 0}, 500, 100);
  EXPECT_THAT(p.notes, ElementsAre(note(0, 110, 60, 80)));
  EXPECT_EQ(p.changes.unended, 0);
}

TEST(Performance, AKeyNeverReleasedSoundsToTheEnd) {
  const Performance p = play_track({0, 0x90, 60, 80, 0, 0xB0, 64, 127}, 500, 100);
  EXPECT_THAT(p.notes, ElementsAre(note(0, 100, 60, 80)));
  EXPECT_EQ(p.changes.unended, 1);
}

TEST(Performance, ThePedalOfOneChannelLeavesTheOthers) {
  const Performance p = play_track({0, 0xB1, 64, 127, 0, 0x90, 60, 80, 10, 60, 0, 10, 0xB1, 64, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(0, 10, 60, 80)));
}

TEST(Performance, ThePedalOfAChannelHoldsAcrossTracks) {
  const Bytes pedal = track({0, 0xB0, 64, 127, 50, 0xB0, 64, 0});
  const Bytes notes = track({10, 0x90, 60, 80, 10, 60, 0});
  EXPECT_THAT(played(midi(1, {pedal, notes})).notes, ElementsAre(note(10, 50, 60, 80)));
}

TEST(Performance, OverlappingNotesOfOnePitchEndOldestFirstAndAreSeparated) {
  // The first would last to 20 and the second to 40; a pitch sounds once at a time.
  const Performance p = play_track({0, 0x90, 60, 80, 10, 60, 90, 10, 60, 0, 20, 60, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(0, 10, 60, 80), note(10, 40, 60, 90)));
  EXPECT_EQ(p.changes.cut, 1);
}

TEST(Performance, AnEndBelongsToItsTrackAndChannel) {
  const Bytes lower = track({0, 0x90, 60, 80, 40, 60, 0});
  const Bytes upper = track({50, 0x91, 60, 90, 10, 60, 0});
  EXPECT_THAT(played(midi(1, {lower, upper})).notes, ElementsAre(note(0, 40, 60, 80), note(50, 60, 60, 90)));
}

TEST(Performance, NotesOfOnePitchThatBeginTogetherBecomeOne) {
  const Performance p = play_track({0, 0x90, 60, 80, 0, 0x91, 60, 90, 10, 60, 0, 20, 0x90, 60, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(0, 30, 60, 90)));
  EXPECT_EQ(p.changes.merged, 1);
}

TEST(Performance, PercussionIsLeftOut) {
  const Performance p = play_track({0, 0x99, 36, 80, 10, 36, 0, 0, 0x90, 60, 80, 10, 60, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(10, 20, 60, 80)));
  EXPECT_EQ(p.changes.percussion, 1);
  EXPECT_EQ(p.changes.stray_ends, 0);
}

TEST(Performance, EndsWithoutANoteAreCounted) {
  EXPECT_EQ(play_track({0, 0x80, 60, 0, 0, 0x90, 60, 80, 5, 60, 0, 5, 60, 0}).changes.stray_ends, 2);
}

TEST(Performance, ControllersThatEndNotes) {
  const auto offset = [](uint8_t controller) {
    return play_track({0, 0x90, 60, 80, 20, 0xB0, controller, 0, 20, 0x90, 60, 0}).notes.at(0).offset;
  };
  EXPECT_EQ(offset(120), 20'000);  // all sound off
  EXPECT_EQ(offset(123), 20'000);  // all notes off
  EXPECT_EQ(offset(7), 40'000);    // volume
  // Under the pedal, "all notes off" is as if the keys were released, and "all sound off" is the end.
  const auto held = [](uint8_t controller) {
    return play_track({0, 0xB0, 64, 127, 0, 0x90, 60, 80, 20, 0xB0, controller, 0, 20, 0xB0, 64, 0})
        .notes.at(0)
        .offset;
  };
  EXPECT_EQ(held(123), 40'000);
  EXPECT_EQ(held(120), 20'000);
  // "Reset" lets the pedal go.
  EXPECT_EQ(
      play_track({0, 0xB0, 64, 127, 0, 0x90, 60, 80, 5, 60, 0, 20, 0xB0, 121, 0}, 500, 50).notes.at(0).offset,
      25'000);
}

TEST(Performance, NotesWithoutLengthStay) {
  const Performance p = play_track({5, 0x90, 60, 80, 0, 60, 0});
  EXPECT_THAT(p.notes, ElementsAre(note(5, 5, 60, 80)));
}

TEST(Performance, RefusesWhatLastsLongerThanADay) {
  Bytes events = {0, 0xFF, 0x51, 3, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0x90, 60, 80};
  try {
    play_track(events, 1);
    FAIL() << "read";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("longer than 24 hours"));
  }
  // Each track of format 2 is short enough; all together are not.
  const Bytes half_day =
      track({0, 0xFF, 0x51, 3, 0x0F, 0x42, 0x40, 0x82, 0xD1, 0x40, 0xC0, 0});  // 43200 quarters
  EXPECT_NO_THROW(played(midi(2, {half_day, half_day}, 1)));
  EXPECT_THROW(played(midi(2, {half_day, half_day, half_day}, 1)), Error);
}

TEST(Performance, ManyUnendedNotesOfOnePitchTakeLittleTime) {
  Bytes events;
  for (int i = 0; i < 200'000; ++i) append(events, {1, 0x90, 60, 80});
  for (int i = 0; i < 200'000; ++i) append(events, {1, 0x80, 60, 0});
  const Performance p = play_track(events);
  EXPECT_EQ(p.notes.size(), 200'000u);
  EXPECT_EQ(p.changes.cut, 199'999);
}

}  // namespace
}  // namespace perceiver
