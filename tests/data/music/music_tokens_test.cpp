#include "data/music/music_tokens.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "data/music/midi_writer.h"
#include "data/music/roundtrip.h"
#include "perceiver/experimental/random.h"
#include "tests/support/midi_bytes.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;

int32_t on(int32_t pitch) {
  return music_note_on + pitch;
}
int32_t off(int32_t pitch) {
  return music_note_off + pitch;
}
int32_t shift(int32_t steps) {
  return music_shift + steps - 1;
}
int32_t velocity(int32_t value) {
  return music_velocity + (value - 1) / 4;
}

TEST(MusicTokens, TheVocabularyIsTheFields) {
  EXPECT_EQ(music_vocabulary, 3 + 388);
  EXPECT_EQ(on(0), 3);
  EXPECT_EQ(off(0), 131);
  EXPECT_EQ(shift(1), 259);
  EXPECT_EQ(shift(100), 358);
  EXPECT_EQ(velocity(1), 359);
  EXPECT_EQ(velocity(127), 390);
}

TEST(MusicTokens, EveryVelocityStaysNear) {
  for (int32_t v = 1; v < 128; ++v) {
    EXPECT_LE(std::abs(bin_velocity(velocity_bin(v)) - v), 2);
    EXPECT_EQ(velocity_bin(bin_velocity(velocity_bin(v))), velocity_bin(v));
  }
  EXPECT_EQ(velocity_bin(127), 31);
}

TEST(MusicTokens, EncodesOnsEndsPausesAndVelocityWhereItChanges) {
  const std::vector<Note> notes = {note(50, 300, 60, 80), note(50, 2600, 64, 80), note(300, 400, 60, 20)};
  EXPECT_THAT(encode_music(notes),
              ElementsAre(shift(5), velocity(80), on(60), on(64), shift(25), off(60), velocity(20), on(60),
                          shift(10), off(60), shift(100), shift(100), shift(20), off(64)));
}

TEST(MusicTokens, RoundsEachTimeOnItsOwn) {
  // 14 ms apart: as steps from one to the next they would fall behind by 4 ms each time.
  std::vector<Note> notes;
  for (int i = 0; i < 1000; ++i) notes.push_back(note(14 * i, 14 * i + 7, 60, 80));
  const std::vector<Note> again = decode_music(encode_music(notes)).notes;
  ASSERT_EQ(again.size(), notes.size());
  for (size_t i = 0; i < notes.size(); ++i) {
    EXPECT_LE(std::abs(again[i].onset - notes[i].onset), 5000);
    EXPECT_LE(std::abs(again[i].offset - notes[i].offset), 5000);
  }
}

TEST(MusicTokens, NotesTooShortForAStepHaveNoLength) {
  const std::vector<Note> notes = {note(8, 11, 60, 80), note(12, 13, 60, 80), note(14, 50, 60, 80)};
  const std::vector<int32_t> ids = encode_music(notes);
  EXPECT_THAT(
      ids, ElementsAre(shift(1), velocity(80), on(60), off(60), on(60), off(60), on(60), shift(4), off(60)));
  EXPECT_THAT(decode_music(ids).notes,
              ElementsAre(note(10, 10, 60, 79), note(10, 10, 60, 79), note(10, 50, 60, 79)));
}

TEST(MusicTokens, DecodesWhateverAModelSays) {
  const std::vector<int32_t> ids = {sos_token, off(60), on(60),  shift(10), on(60),    391,       392,
                                    shift(5),  on(62),  off(60), eos_token, pad_token, shift(100)};
  const DecodedMusic music = decode_music(ids);
  EXPECT_THAT(music.notes,
              ElementsAre(note(0, 100, 60, 63), note(100, 150, 60, 63), note(150, 1150, 62, 63)));
  EXPECT_EQ(music.stray_ends, 1);
  EXPECT_EQ(music.restruck, 1);
  EXPECT_EQ(music.unended, 1);
  EXPECT_EQ(music.duration, 1'150'000);
}

/// Notes as `perform` may give them: any times, no two of one pitch at once.
std::vector<Note> random_notes(RandomStream& random, int count) {
  std::vector<Note> notes;
  int64_t free_from[128] = {};
  for (int i = 0; i < count; ++i) {
    const auto pitch = static_cast<int32_t>(random.below(128));
    const auto longest = random.below(4) == 0 ? 20'000u : 3'000'000u;
    const int64_t onset = free_from[pitch] + static_cast<int64_t>(random.below(longest));
    const int64_t offset = onset + static_cast<int64_t>(random.below(longest));
    notes.push_back({onset, offset, pitch, 1 + static_cast<int32_t>(random.below(127))});
    free_from[pitch] = offset;
  }
  std::sort(notes.begin(), notes.end(), [](const Note& a, const Note& b) {
    return std::tie(a.onset, a.pitch, a.offset) < std::tie(b.onset, b.pitch, b.offset);
  });
  return notes;
}

std::vector<Note> by_pitch(std::vector<Note> notes) {
  std::stable_sort(notes.begin(), notes.end(), [](const Note& a, const Note& b) {
    return std::tie(a.pitch, a.onset, a.offset) < std::tie(b.pitch, b.onset, b.offset);
  });
  return notes;
}

TEST(MusicTokens, AnyMusicComesBackWithinFiveMilliseconds) {
  RandomStream random(5, RandomPurpose::batch);
  for (int round = 0; round < 100; ++round) {
    const std::vector<Note> notes = random_notes(random, 300);
    const std::vector<int32_t> ids = encode_music(notes);
    const std::vector<Note> before = by_pitch(notes), after = by_pitch(decode_music(ids).notes);
    ASSERT_EQ(after.size(), before.size());
    for (size_t i = 0; i < before.size(); ++i) {
      ASSERT_EQ(after[i].pitch, before[i].pitch);
      ASSERT_LE(std::abs(after[i].onset - before[i].onset), 5000);
      ASSERT_LE(std::abs(after[i].offset - before[i].offset), 5000);
      ASSERT_LE(std::abs(after[i].velocity - before[i].velocity), 2);
    }
    ASSERT_EQ(encode_music(decode_music(ids).notes), ids);  // what was rounded once stays
    const std::string file = write_midi(decode_music(ids).notes);
    const Performance read = played(Bytes(file.begin(), file.end()));
    ASSERT_EQ(by_pitch(read.notes), after);
  }
}

TEST(MusicTokens, TheFirstSecondsEndExactlyThere) {
  const std::vector<Note> notes = {note(0, 2500, 60, 80), note(1000, 1500, 64, 80), note(2000, 3000, 67, 80)};
  const std::vector<int32_t> ids = encode_music(notes);
  const std::vector<int32_t> first = first_music(ids, 1'234'000);
  EXPECT_THAT(first, ElementsAre(velocity(80), on(60), shift(100), on(64), shift(23)));
  EXPECT_EQ(decode_music(first).duration, 1'230'000);
  EXPECT_EQ(first_music(ids, 0), (std::vector<int32_t>{velocity(80), on(60)}));
  EXPECT_EQ(first_music(ids, 99'000'000), ids);
}

TEST(MusicTokens, TransposesNotesAlone) {
  const std::vector<int32_t> ids = {sos_token, velocity(80), on(60), shift(10), off(60), eos_token};
  EXPECT_THAT(transpose_music(ids, 3),
              ElementsAre(sos_token, velocity(80), on(63), shift(10), off(63), eos_token));
  EXPECT_EQ(transpose_music(transpose_music(ids, -5), 5), ids);
  EXPECT_EQ(transpose_music(ids, 0), ids);
}

TEST(MusicTokens, TransposesNoFurtherThanThePitchesReach) {
  EXPECT_THAT(transpose_music(std::vector<int32_t>{on(125), on(60)}, 5), ElementsAre(on(127), on(62)));
  EXPECT_THAT(transpose_music(std::vector<int32_t>{on(1), off(1)}, -5), ElementsAre(on(0), off(0)));
  EXPECT_THAT(transpose_music(std::vector<int32_t>{shift(5)}, 5), ElementsAre(shift(5)));
}

TEST(MusicTokens, StretchesTimesFromTheBeginning) {
  const std::vector<int32_t> ids = {sos_token, on(60),   shift(100), shift(50),
                                    off(60),   shift(3), on(61),     eos_token};
  EXPECT_THAT(stretch_music(ids, 1.1),
              ElementsAre(sos_token, on(60), shift(100), shift(65), off(60), shift(3), on(61), eos_token));
  EXPECT_THAT(stretch_music(ids, 0.5),
              ElementsAre(sos_token, on(60), shift(75), off(60), shift(2), on(61), eos_token));
  EXPECT_EQ(stretch_music(ids, 1), ids);
}

TEST(MusicTokens, StretchingDoesNotAddUpErrors) {
  std::vector<int32_t> ids;
  for (int i = 0; i < 2000; ++i) ids.insert(ids.end(), {on(60), shift(1), off(60), shift(1)});
  const DecodedMusic music = decode_music(stretch_music(ids, 1.05));
  EXPECT_EQ(music.duration, 42'000'000);
  for (size_t i = 0; i < music.notes.size(); ++i)
    EXPECT_LE(std::abs(music.notes[i].onset - static_cast<int64_t>(21'000 * i)), 5000);
}

}  // namespace
}  // namespace perceiver
