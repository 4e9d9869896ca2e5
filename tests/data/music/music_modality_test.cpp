#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "data/image/image_reader.h"
#include "data/modality.h"
#include "data/music/music_tokens.h"
#include "perceiver/error.h"
#include "tests/support/midi_bytes.h"
#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

using ::testing::HasSubstr;

/// A note of pitch 60 every 100 ms, each 50 ms long.
Bytes steady(int notes) {
  Bytes events;
  for (int i = 0; i < notes; ++i)
    append(events, {static_cast<uint8_t>(i == 0 ? 0 : 50), 0x90, 60, 80, 50, 60, 0});
  return midi(0, {track(events)});
}

SourceFile source(const Bytes& file) {
  return {"test.mid", std::as_bytes(std::span(file))};
}

TEST(MusicModality, FilesBecomeEventsAndMidiAgain) {
  const auto modality = open_modality("music", {});
  EXPECT_EQ(modality->format().vocabulary, 391);
  EXPECT_EQ(modality->format().unit, "event");
  EXPECT_TRUE(modality->format().ends);
  const Bytes file = steady(5);
  const TokenSequence sequence = modality->encode(source(file)).at(0);
  EXPECT_EQ(sequence.units, static_cast<int64_t>(sequence.ids.size()));
  const std::string written = modality->decode(sequence, ".mid");
  const Performance again = played(Bytes(written.begin(), written.end()));
  ASSERT_EQ(again.notes.size(), 5u);
  EXPECT_EQ(again.notes[3], note(300, 350, 60, 79));
  EXPECT_EQ(restore_modality("music", modality->tokenizer())->tokenizer(), modality->tokenizer());
}

TEST(MusicModality, TheMaskLeavesOutIdsThatStandForNothing) {
  const SamplingMask mask = open_modality("music", {})->format().mask;
  for (const int64_t k : {0, 1, 1000}) {
    EXPECT_FALSE(mask.allows(k, 0));
    EXPECT_TRUE(mask.allows(k, 1));
    EXPECT_FALSE(mask.allows(k, 2));
    EXPECT_TRUE(mask.allows(k, 3));
    EXPECT_TRUE(mask.allows(k, 390));
    EXPECT_FALSE(mask.allows(k, 391));
  }
}

TEST(MusicModality, RefusesFilesWithoutNotesAndOtherEndings) {
  const auto modality = open_modality("music", {});
  const Bytes empty = midi(0, {track({})}), drums = midi(0, {track({0, 0x99, 36, 80, 1, 36, 0})});
  EXPECT_THROW(modality->encode(source(empty)), Error);
  EXPECT_THROW(modality->encode(source(drums)), Error);
  EXPECT_THROW(modality->decode({}, ".mp3"), Error);
  EXPECT_THROW(open_modality("music", {{"transpose", "13"}}), Error);
  EXPECT_THROW(open_modality("music", {{"stretch", "0.6"}}), Error);
}

TEST(MusicModality, ThePromptIsTheFirstSeconds) {
  const auto modality = open_modality("music", {});
  const Bytes file = steady(20);
  PromptPart options;
  options.seconds = 0.42;
  const Prompt prompt = modality->prompt(source(file), options);
  EXPECT_EQ(decode_music(prompt.beginning.ids).duration, 420'000);
  EXPECT_EQ(decode_music(prompt.beginning.ids).notes.size(), 5u);
  EXPECT_EQ(prompt.length, 0);
  options.rows = 1;
  EXPECT_THROW(modality->prompt(source(file), options), Error);
  options = {};
  options.seconds = 1e6;
  EXPECT_THROW(modality->prompt(source(file), options), Error);
  options = {};
  options.tokens = 7;
  EXPECT_EQ(modality->prompt(source(file), options).beginning.ids.size(), 7u);
}

TEST(MusicModality, VariesTrainingCropsOnlyIfAsked) {
  EXPECT_FALSE(open_modality("music", {})->augments());
  const auto modality = open_modality("music", {{"transpose", "3"}, {"stretch", "0.1"}});
  EXPECT_TRUE(modality->augments());
  const Bytes file = steady(20);
  const std::vector<int32_t> ids = modality->encode(source(file)).at(0).ids;
  std::vector<int32_t> pitches;
  int64_t shortest = INT64_MAX, longest = 0;
  for (uint64_t step = 0; step < 200; ++step) {
    RandomStream random(1, RandomPurpose::batch, step), same(1, RandomPurpose::batch, step);
    std::vector<int32_t> varied = ids, again = ids;
    modality->augment(varied, random);
    modality->augment(again, same);
    ASSERT_EQ(varied, again);
    const DecodedMusic music = decode_music(varied);
    ASSERT_EQ(music.notes.size(), 20u);
    pitches.push_back(music.notes[0].pitch);
    shortest = std::min(shortest, music.duration), longest = std::max(longest, music.duration);
  }
  std::sort(pitches.begin(), pitches.end());
  pitches.erase(std::unique(pitches.begin(), pitches.end()), pitches.end());
  EXPECT_EQ(pitches, (std::vector<int32_t>{57, 58, 59, 60, 61, 62, 63}));
  EXPECT_GE(shortest, 1'950'000 * 9 / 10 - 5000);
  EXPECT_LE(longest, 1'950'000 * 11 / 10 + 5000);
  EXPECT_LT(shortest, 1'800'000);
  EXPECT_GT(longest, 2'100'000);
}

TEST(MusicModality, AugmentationIsNoPartOfTheTokenizer) {
  const auto plain = open_modality("music", {}), varied = open_modality("music", {{"transpose", "3"}});
  EXPECT_EQ(plain->tokenizer(), varied->tokenizer());
  EXPECT_TRUE(restore_modality("music", plain->tokenizer(), {{"stretch", "0.1"}})->augments());
}

TEST(MusicModality, APianoRollIsAPicture) {
  const auto modality = open_modality("music", {});
  const Bytes file = steady(20);
  const std::string png = modality->decode(modality->encode(source(file)).at(0), ".png");
  EXPECT_EQ(read_image(std::as_bytes(std::span(png)), "roll", Background::white).width, 98);
}

/// Sets an environment variable while it lives.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    const char* before = std::getenv(name);
    had_ = before != nullptr;
    if (had_) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  ~Environment() {
    if (had_)
      ::setenv(name_, before_.c_str(), 1);
    else
      ::unsetenv(name_);
  }

 private:
  const char* name_;
  bool had_;
  std::string before_;
};

std::string wav_refusal(const std::string& font, const std::string& path) {
  const Environment sound_font("SOUNDFONT", font), search("PATH", path);
  const Bytes file = steady(2);
  const auto modality = open_modality("music", {});
  try {
    return modality->decode(modality->encode(source(file)).at(0), ".wav").substr(0, 4);
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(MusicModality, SoundNeedsAProgramAndAFont) {
  const TempFolder folder;
  const std::string font = folder.write("font.sf2", "font");
  EXPECT_THAT(wav_refusal(folder.path("none.sf2"), folder.path()), HasSubstr("which does not exist"));
  EXPECT_THAT(wav_refusal(font, folder.path()), HasSubstr("install the package fluidsynth"));
}

TEST(MusicModality, SoundIsWhatTheProgramWrites) {
  const TempFolder folder;
  const std::string font = folder.write("font.sf2", "font");
  // In place of fluidsynth: writes its -F argument, after looking at the sound font and the MIDI file.
  const std::string program = folder.write(
      "fluidsynth",
      "#!/bin/sh\n[ \"$(/bin/cat \"$8\")\" = font ] && [ \"$(/usr/bin/head -c 4 \"$9\")\" = MThd ] && "
      "printf RIFF > \"$7\"\n");
  std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  EXPECT_EQ(wav_refusal(font, folder.path()), "RIFF");
  const std::string failing = folder.write("fluidsynth", "#!/bin/sh\nexit 3\n");
  EXPECT_THAT(wav_refusal(font, folder.path()), HasSubstr("status 3"));
}

TEST(MusicModality, TellsWhatTokensChange) {
  const Bytes file = steady(3);
  EXPECT_THAT(open_modality("music", {})->compare(source(file)), HasSubstr("notes"));
}

}  // namespace
}  // namespace perceiver
