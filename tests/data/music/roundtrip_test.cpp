#include "data/music/roundtrip.h"

#include <gtest/gtest.h>

#include "data/music/music_tokens.h"
#include "perceiver/experimental/random.h"
#include "tests/support/midi_bytes.h"

namespace perceiver {
namespace {

TEST(RoundTrip, TellsWhatReadingAndTokensChange) {
  const Bytes file = midi(0, {track({3, 0x90, 60, 82, 0, 0xB0, 64, 127, 20, 0x80, 60, 0, 14, 0xB0, 64, 0,  //
                                     0, 0x99, 36, 80, 2, 0x90, 62, 10,  1,  62,   0,  0, 62, 0})});
  const MusicRoundTrip trip = music_round_trip(played(file), "test.mid");
  EXPECT_EQ(trip.notes, 2);
  EXPECT_EQ(trip.notes_after, 2);
  EXPECT_EQ(trip.tokens, 7);
  EXPECT_EQ(trip.changes.sustained, 1);
  EXPECT_EQ(trip.changes.percussion, 1);
  EXPECT_EQ(trip.changes.stray_ends, 1);
  EXPECT_EQ(trip.largest_onset_error, 3000);
  EXPECT_EQ(trip.largest_offset_error, 3000);
  EXPECT_EQ(trip.largest_velocity_error, 1);
  EXPECT_EQ(trip.lengthless, 1);
  EXPECT_NE(describe(trip).find("3.000 ms"), std::string::npos);
}

}  // namespace
}  // namespace perceiver
