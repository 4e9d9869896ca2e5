#include "data/music/piano_roll.h"

#include <gtest/gtest.h>

#include "data/music/music_tokens.h"
#include "data/music/roundtrip.h"
#include "perceiver/experimental/random.h"
#include "tests/support/midi_bytes.h"

namespace perceiver {
namespace {

TEST(PianoRoll, DrawsNotesWhereTheyAre) {
  const std::vector<Note> notes = {note(0, 1000, 60, 127), note(2000, 2500, 72, 1)};
  const Image roll = piano_roll(notes, 4'000'000);
  EXPECT_EQ(roll.width, 201);
  EXPECT_EQ(roll.height, 25 * 4);
  const auto grey = [&](int64_t x, int64_t y) { return static_cast<int>(roll.at(x, y)[0]); };
  EXPECT_LT(grey(25, 12 * 4 + 1), 20);  // the middle of the first note, loud
  EXPECT_GT(grey(110, 1), 150);         // the second, soft, at the top
  EXPECT_LT(grey(110, 1), 200);
  EXPECT_EQ(grey(75, 12 * 4 + 1), 255);  // silence
}

TEST(PianoRoll, TheGivenNotesAreGreen) {
  const std::vector<Note> notes = {note(0, 1000, 60, 127), note(2000, 3000, 60, 127)};
  const Image roll = piano_roll(notes, 4'000'000, 1'500'000);
  const auto is_green = [&](int64_t x) {
    const uint8_t* pixel = roll.at(x, 12 * 4 + 1);
    return pixel[1] > pixel[0] + 40 && pixel[1] > pixel[2] + 40;
  };
  EXPECT_TRUE(is_green(25));
  EXPECT_FALSE(is_green(125));
  EXPECT_TRUE(is_green(75));  // the line between them
}

TEST(PianoRoll, AnythingAtAllIsAPicture) {
  EXPECT_EQ(piano_roll({}, 0).width, 51);
  EXPECT_EQ(piano_roll(std::vector<Note>{{0, longest_performance, 0, 1}, {5, 5, 127, 127}}, 0).width, 16'384);
}

}  // namespace
}  // namespace perceiver
