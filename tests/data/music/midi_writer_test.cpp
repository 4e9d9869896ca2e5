#include "data/music/midi_writer.h"

#include <gtest/gtest.h>

#include "data/music/midi_file.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/midi_bytes.h"

namespace perceiver {
namespace {

Bytes written(const std::vector<Note>& notes) {
  const std::string file = write_midi(notes);
  return Bytes(file.begin(), file.end());
}

TEST(MidiWriter, WritesWhatIsReadAgain) {
  const std::vector<Note> notes = {note(0, 500, 60, 80),      note(0, 500, 64, 1),   note(500, 500, 60, 127),
                                   note(500, 700, 60, 30),    note(700, 900, 64, 2), note(700, 1200, 67, 3),
                                   note(900, 60'000, 64, 100)};
  EXPECT_EQ(played(written(notes)).notes, notes);
}

TEST(MidiWriter, RoundsToMilliseconds) {
  const std::vector<Note> read = played(written({{1499, 2500, 60, 5}})).notes;
  EXPECT_EQ(read, std::vector<Note>{note(1, 3, 60, 5)});
}

TEST(MidiWriter, NothingIsAFileWithoutNotes) {
  EXPECT_TRUE(played(written({})).notes.empty());
}

TEST(MidiWriter, RefusesTimesBeyondADay) {
  EXPECT_THROW(write_midi(std::vector<Note>{{0, longest_performance + 1, 60, 5}}), Error);
}

}  // namespace
}  // namespace perceiver
