#include "data/audio/sound_format.h"

#include <gmock/gmock.h>

#include "data/modality.h"

namespace perceiver {
namespace {

using std::string_literals::operator""s;
using ::testing::HasSubstr;

std::span<const std::byte> bytes(const std::string& file) {
  return std::as_bytes(std::span(file));
}

std::string described(const std::string& file) {
  EXPECT_EQ(sound_format(bytes(file)), SoundFormat::other);
  return describe_other_sound(bytes(file));
}

TEST(SoundFormat, IsToldByTheFirstBytes) {
  EXPECT_EQ(sound_format(bytes("RIFF\1\2\3\4WAVE")), SoundFormat::wav);
  EXPECT_EQ(sound_format(bytes("FORM\1\2\3\4AIFC")), SoundFormat::aiff);
  EXPECT_EQ(sound_format(bytes("fLaC")), SoundFormat::flac);
  EXPECT_EQ(sound_format(bytes("OggS")), SoundFormat::ogg);
  EXPECT_EQ(sound_format(bytes(".snd")), SoundFormat::au);
  EXPECT_EQ(sound_format(bytes("\xFF\xFB\x90\x64")), SoundFormat::mp3);
  EXPECT_EQ(sound_format(bytes("\xFF\xFB\xF0\x64")), SoundFormat::other);  // no such bit rate
  EXPECT_EQ(sound_format(bytes("\xFF\xFB")), SoundFormat::other);
}

TEST(SoundFormat, OthersAreNamedWithTheCommandThatConvertsThem) {
  EXPECT_EQ(described("\0\0\0\x20"
                      "ftypM4A "s),
            "is AAC or ALAC (MP4), which is not read; convert it: ffmpeg -i in.m4a out.wav");
  EXPECT_THAT(described("\xFF\xF1\x50\x80"), HasSubstr("is AAC, "));
  EXPECT_THAT(described("\x30\x26\xB2\x75\x8E\x66\xCF\x11"), HasSubstr("ffmpeg -i in.wma out.wav"));
  EXPECT_THAT(described("#!AMR\n"), HasSubstr("is AMR, "));
  EXPECT_THAT(described("caff"), HasSubstr("a CAF file"));
  EXPECT_THAT(described("NIST_1A\n"), HasSubstr("NIST SPHERE"));
  EXPECT_THAT(described("MThd"), HasSubstr("is a MIDI file (modality music); only WAV, AIFF"));
  EXPECT_THAT(described("RIFF\1\2\3\4AVI "), HasSubstr("is a video, "));
  EXPECT_THAT(described(""), HasSubstr("not a supported audio file"));
}

TEST(SoundFormat, TagsInFrontAreMeasured) {
  EXPECT_EQ(id3_length(bytes("fLaC")), 0u);
  EXPECT_EQ(id3_length(bytes("ID3\4\0\0\0\0\0\3abcfLaC"s)), 13u);
  EXPECT_EQ(id3_length(bytes("ID3\4\0\0\0\0\0\1aID3\3\0\0\0\0\0\1b\0\0\xFF\xFB"s)), 24u);
  EXPECT_EQ(id3_length(bytes("ID3\4\0\x10\0\0\0\0"
                             "3DI\4\0\x10\0\0\0\0x"s)),
            20u);                                            // with a footer
  EXPECT_EQ(id3_length(bytes("ID3\4\0\0\0\0\1\0"s)), 138u);  // cut short
  EXPECT_EQ(id3_length(bytes("ID3")), 0u);
}

TEST(SoundFormat, FilesNamedAsOtherSoundsAreTakenToBeNamed) {
  const ModalityKind& kind = find_modality("audio");
  for (const char* name : {"a.wave", "a.OGG", "a.mp3", "a.aif", "a.m4a", "a.WMA"})
    EXPECT_TRUE(kind.takes(name));
  EXPECT_FALSE(kind.takes("a.txt"));
}

}  // namespace
}  // namespace perceiver
