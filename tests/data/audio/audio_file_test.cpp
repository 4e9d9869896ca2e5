#include "data/audio/audio_file.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "data/audio/mu_law.h"
#include "data/modality.h"
#include "perceiver/special_tokens.h"
#include "tests/support/sound_bytes.h"
#include "tests/support/user_error.h"
#include "tests/support/wav_bytes.h"

namespace perceiver {
namespace {

using testing::int16;
using testing::put_little_endian;
using testing::sound_file;
using testing::tone;
using testing::wav;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

Audio read(std::span<const std::byte> file, int rate, const std::string& path) {
  return read_audio({.path = path, .bytes = file}, rate);
}

double rms_difference(const std::vector<float>& a, const std::vector<float>& b, size_t margin) {
  double sum = 0;
  for (size_t i = margin; i + margin < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum / static_cast<double>(a.size() - 2 * margin));
}

TEST(AudioFile, WritesAndReads) {
  const std::vector<float> samples = tone(8000, 0.25, 440);
  for (const char* ending : {".wav", ".flac"}) {
    const std::string file = write_audio(samples, 8000, ending);
    const Audio audio = read(bytes(file), 8000, "x");
    ASSERT_EQ(audio.samples.size(), samples.size());
    EXPECT_EQ(audio.file_rate, 8000);
    EXPECT_EQ(audio.file_channels, 1);
    for (size_t i = 0; i < samples.size(); ++i) EXPECT_NEAR(audio.samples[i], samples[i], 1.0 / 32000);
  }
  EXPECT_EQ(read(bytes(write_audio({}, 8000, ".wav")), 8000, "x").samples.size(), 0u);
  EXPECT_THAT(message_of([&] { write_audio(samples, 8000, ".ogg"); }), HasSubstr(".wav or .flac"));
}

TEST(AudioFile, MixesChannelsToTheirMean) {
  const Audio audio =
      read(bytes(wav(1, 2, 8000, 16, int16({16384, 0, -16384, 16384, 32767, 32767}))), 8000, "x");
  ASSERT_EQ(audio.samples.size(), 3u);
  EXPECT_EQ(audio.file_channels, 2);
  EXPECT_FLOAT_EQ(audio.samples[0], 0.25f);
  EXPECT_FLOAT_EQ(audio.samples[1], 0);
  EXPECT_NEAR(audio.samples[2], 1, 1e-4);
}

TEST(AudioFile, ResamplesATone) {
  for (const auto& [from, to] : {std::pair{44100, 16000}, {8000, 16000}, {48000, 8000}}) {
    const Audio audio = read(bytes(write_audio(tone(from, 0.5, 440), from, ".wav")), to, "x");
    const std::vector<float> wanted = tone(to, 0.5, 440);
    EXPECT_NEAR(static_cast<double>(audio.samples.size()), static_cast<double>(wanted.size()), 2);
    std::vector<float> compared = audio.samples;
    compared.resize(wanted.size());
    EXPECT_LT(rms_difference(compared, wanted, 400), 2e-3) << from << " to " << to;
  }
}

TEST(AudioFile, ATonePastTheNewRateIsFilteredOut) {
  const Audio audio = read(bytes(write_audio(tone(48000, 0.5, 7000), 48000, ".wav")), 8000, "x");
  double power = 0;
  for (const float sample : audio.samples) power += static_cast<double>(sample) * sample;
  EXPECT_LT(std::sqrt(power / static_cast<double>(audio.samples.size())), 0.005);
}

TEST(AudioFile, NoNumbersAreSilence) {
  std::string data(12, '\0');
  const float values[] = {std::nanf(""), INFINITY, -5};
  std::memcpy(data.data(), values, 12);
  EXPECT_EQ(read(bytes(wav(3, 1, 8000, 32, data)), 8000, "x").samples, (std::vector<float>{0, 1, -1}));
}

TEST(AudioFile, WhatIsNoSoundIsRefused) {
  const auto error = [](const std::string& file) {
    return message_of([&] { read(bytes(file), 8000, "a/b.wav"); });
  };
  EXPECT_THAT(error("RIFF"), HasSubstr("a/b.wav: not a supported audio file"));
  EXPECT_THAT(error(""), HasSubstr("not a supported audio file"));
  EXPECT_THAT(error(wav(1, 1, 7, 16, int16({1, 2}))), HasSubstr("7 samples per second"));
  EXPECT_THAT(error(wav(1, 65, 8000, 16, std::string(130, 'a'))), HasSubstr("65 channels"));
  const std::string flac = write_audio(tone(8000, 1, 440), 8000, ".flac");
  std::string damaged = flac;
  for (size_t i = flac.size() / 2; i < flac.size() / 2 + 64; ++i) damaged[i] = static_cast<char>(~damaged[i]);
  try {  // a decoder may conceal the damage, but no more than that
    EXPECT_LE(read(bytes(damaged), 8000, "x").samples.size(), 16000u);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::user);
  }
}

// The file is named longer than it is: what is there is read, nothing is allocated on its word.
TEST(AudioFile, ALengthThatLiesIsNotBelieved) {
  std::string file = wav(1, 1, 8000, 16, int16({1, 2, 3, 4}));
  for (const size_t at : {size_t{4}, size_t{40}})
    for (size_t i = 0; i < 4; ++i) file[at + i] = static_cast<char>(0x7F);
  EXPECT_EQ(read(bytes(file), 8000, "x").samples.size(), 4u);
}

TEST(AudioFile, TitlesAndMarkersAreLeftOut) {
  std::string file = wav(1, 1, 8000, 16, int16({1000, -1000}));
  const std::string list = std::string("LIST\x05\0\0\0INFO!\0", 14);
  file.insert(12, list);                     // before the description, of odd length
  file.insert(12 + list.size() + 24, list);  // between it and the samples
  file += "LIST";                            // what comes after the samples is not read: a length missing
  const Audio audio = read(bytes(file), 8000, "a.wav");
  ASSERT_EQ(audio.samples.size(), 2u);
  EXPECT_FLOAT_EQ(audio.samples[0], 1000.0f / 32768);
  EXPECT_FLOAT_EQ(audio.samples[1], -1000.0f / 32768);
}

TEST(AudioFile, ChunksPastTheEndOfTheFileAreRefused) {
  const auto error = [](const std::string& file) {
    return message_of([&] { read(bytes(file), 8000, "a.wav"); });
  };
  std::string endless = "RIFF";  // libsndfile 1.2 reads this list for ever
  put_little_endian(endless, 60, 4);
  endless += "WAVELISTA" + std::string(60, '\xFF');
  EXPECT_THAT(error(endless),
              HasSubstr("a.wav: damaged: the chunk 'LIST' of 4294967105 bytes extends past the end"));
  EXPECT_THAT(error(wav(1, 1, 8000, 16, "").substr(0, 36)), HasSubstr("no samples"));
}

TEST(AudioFile, LengthsOf64Bits) {
  std::string file = wav(1, 1, 8000, 16, int16({1, 2, 3, 4}));
  std::string sizes = "ds64";
  put_little_endian(sizes, 28, 4), put_little_endian(sizes, 80, 4), put_little_endian(sizes, 0, 4),
      put_little_endian(sizes, 6, 4), put_little_endian(sizes, 0, 4), put_little_endian(sizes, 3, 4);
  put_little_endian(sizes, 0, 4), put_little_endian(sizes, 0, 4);
  file.replace(0, 4, "RF64").replace(4, 4, "\xFF\xFF\xFF\xFF").replace(40, 4, "\xFF\xFF\xFF\xFF");
  file.insert(12, sizes);
  EXPECT_EQ(read(bytes(file), 8000, "x").samples.size(), 3u);
}

/// The file's samples, and what was repaired.
std::vector<float> repaired(const std::string& file, std::vector<std::string>& repairs) {
  return read_audio({.path = "a.x", .bytes = bytes(file), .repairs = &repairs}, 8000).samples;
}

std::string strict_refusal(const std::string& file) {
  return message_of([&] { read_audio({.path = "a.x", .bytes = bytes(file), .strict = true}, 8000); });
}

std::string refusal(const std::string& file) {
  return message_of([&] { read(bytes(file), 8000, "a.x"); });
}

TEST(AudioFile, ReadsLosslessFormats) {
  const std::vector<float> samples = tone(8000, 0.1, 440);
  for (const int format :
       {SF_FORMAT_AIFF | SF_FORMAT_PCM_16, SF_FORMAT_AIFF | SF_FORMAT_PCM_24,
        SF_FORMAT_AIFF | SF_FORMAT_FLOAT, SF_FORMAT_AIFF | SF_ENDIAN_LITTLE | SF_FORMAT_PCM_16,
        SF_FORMAT_AU | SF_FORMAT_PCM_16, SF_FORMAT_AU | SF_ENDIAN_LITTLE | SF_FORMAT_PCM_16,
        SF_FORMAT_WAV | SF_FORMAT_PCM_24, SF_FORMAT_WAV | SF_FORMAT_FLOAT, SF_FORMAT_WAVEX | SF_FORMAT_PCM_16,
        SF_FORMAT_RF64 | SF_FORMAT_PCM_16, SF_FORMAT_FLAC | SF_FORMAT_PCM_24}) {
    const std::string file = sound_file(format, 1, 8000, samples);
    ASSERT_FALSE(file.empty()) << std::hex << format;
    std::vector<std::string> repairs;
    const std::vector<float> back = repaired(file, repairs);
    ASSERT_EQ(back.size(), samples.size()) << std::hex << format;
    for (size_t i = 0; i < samples.size(); ++i) ASSERT_NEAR(back[i], samples[i], 1.0 / 32000);
    EXPECT_THAT(repairs, IsEmpty());
  }
}

/// Lossy files have the tone, and the number of samples that the encoder says (MP3: whole frames).
TEST(AudioFile, ReadsLossyFormats) {
  constexpr int mp3 = 0x230000 | 0x0082;  // SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III
  constexpr int opus = SF_FORMAT_OGG | 0x0064;
  const std::vector<float> samples = tone(48000, 0.5, 440);
  for (const int format : {SF_FORMAT_OGG | SF_FORMAT_VORBIS, opus, mp3}) {
    const std::string file = sound_file(format, 1, 48000, samples);
    if (file.empty()) continue;  // this libsndfile does not have it
    const Audio audio = read(bytes(file), 48000, "x");
    EXPECT_NEAR(static_cast<double>(audio.samples.size()), 24000, format == mp3 ? 2400 : 0)
        << std::hex << format;
    EXPECT_EQ(audio.file_rate, 48000);
    double power = 0;
    for (const float sample : audio.samples) power += static_cast<double>(sample) * sample;
    EXPECT_NEAR(std::sqrt(power / 24000), 0.5 / std::sqrt(2.0), 0.01) << std::hex << format;
    EXPECT_EQ(read(bytes(file), 48000, "x").samples, audio.samples);
  }
}

TEST(AudioFile, Mp3FilesMayHaveTagsBeJoinedAndCutShort) {
  constexpr int mp3 = 0x230000 | 0x0082;
  const std::string file = sound_file(mp3, 1, 8000, tone(8000, 0.5, 440));
  if (file.empty()) GTEST_SKIP() << "libsndfile cannot write MP3";
  const std::vector<float> samples = read(bytes(file), 8000, "x").samples;
  std::vector<std::string> repairs;
  const std::string tag("ID3\4\0\0\0\0\0\5title", 15), old_tag = "TAG" + std::string(125, 'a');
  EXPECT_EQ(repaired(tag + file, repairs), samples);
  EXPECT_EQ(repaired(file + old_tag, repairs), samples);
  EXPECT_EQ(repaired(tag + std::string(50, '\0') + file + std::string(500, '\0'), repairs), samples);
  EXPECT_GE(repaired(file + file, repairs).size(), 2 * samples.size());
  EXPECT_THAT(repairs, IsEmpty());
  EXPECT_LT(repaired(file.substr(0, file.size() / 2), repairs).size(), samples.size() * 2 / 3);
  EXPECT_THAT(repairs, ElementsAre(HasSubstr("of 4000 samples are there")));
}

TEST(AudioFile, ATagBeforeTheSoundIsSkipped) {
  const std::string tag("ID3\4\0\0\0\0\0\5title", 15);
  const std::vector<float> samples = tone(8000, 0.1, 440);
  for (const char* ending : {".flac", ".wav"}) {
    const std::string file = write_audio(samples, 8000, ending);
    std::vector<std::string> repairs;
    EXPECT_EQ(repaired(tag + file, repairs), read(bytes(file), 8000, "x").samples);
    EXPECT_THAT(repairs, ElementsAre("an ID3 tag of 15 bytes before the sound was skipped"));
    EXPECT_THAT(strict_refusal(tag + file), HasSubstr("a.x: an ID3 tag of 15 bytes"));
  }
  EXPECT_THAT(refusal(tag), HasSubstr("nothing behind it"));
  EXPECT_THAT(refusal(tag.substr(0, 12)), HasSubstr("nothing behind it"));
  EXPECT_THAT(refusal(tag + "text"), HasSubstr("not a supported audio file"));
}

TEST(AudioFile, CompressedSamplesInWavAreNamed) {
  EXPECT_THAT(
      refusal(wav(0x55, 1, 8000, 16, int16({1, 2}))),
      HasSubstr("a.x: is a WAV file with MP3 inside (format tag 0x0055), which is not read; convert it: "
                "ffmpeg -i in.wav out.flac"));
  std::string extensible = wav(0xFFFE, 1, 8000, 16, int16({1, 2}));
  extensible[16] = 40;  // the length of the description
  extensible.insert(36, std::string(8, '\0') + std::string("\x61\x01", 2) + std::string(14, '\0'));
  EXPECT_THAT(refusal(extensible), HasSubstr("WMA inside (format tag 0x0161)"));
}

TEST(AudioFile, AFileThatIsCutShortIsReported) {
  for (const int format : {SF_FORMAT_WAV | SF_FORMAT_PCM_16, SF_FORMAT_AIFF | SF_FORMAT_PCM_16}) {
    const std::string file = sound_file(format, 1, 8000, tone(8000, 0.1, 440));
    std::vector<std::string> repairs;
    EXPECT_EQ(repaired(file.substr(0, file.size() - 600), repairs).size(), 500u);
    EXPECT_THAT(repairs, ElementsAre("the file is cut short: 1000 of 1600 bytes of samples are there"));
    EXPECT_THAT(strict_refusal(file.substr(0, file.size() - 600)), HasSubstr("cut short"));
  }
  std::string piped = wav(1, 1, 8000, 16, int16({1, 2, 3}));
  piped.replace(40, 4, "\xFF\xFF\xFF\xFF");
  std::vector<std::string> repairs;
  EXPECT_EQ(repaired(piped, repairs).size(), 3u);
  EXPECT_THAT(repairs, IsEmpty());
}

TEST(AudioFile, AiffChunksMayComeInAnyOrderAndNumber) {
  const std::string file = sound_file(SF_FORMAT_AIFF | SF_FORMAT_PCM_16, 1, 8000, tone(8000, 0.1, 440));
  const std::vector<float> samples = read(bytes(file), 8000, "x").samples;
  const size_t description = file.find("COMM"), sound = file.find("SSND");
  ASSERT_NE(description, std::string::npos);
  const std::string comm = file.substr(description, 26), ssnd = file.substr(sound);
  const std::string odd = std::string("NAME\0\0\0\3abc\0", 12);
  EXPECT_EQ(read(bytes(file.substr(0, 12) + odd + ssnd + odd + comm), 8000, "x").samples, samples);
  EXPECT_EQ(read(bytes(file.substr(0, 12) + comm + ssnd + "NAME\xFF\xFF\xFF\xFF"), 8000, "x").samples,
            samples);
  EXPECT_THAT(refusal(file.substr(0, 12) + comm), HasSubstr("no samples (no chunk 'SSND')"));
  EXPECT_THAT(refusal(file.substr(0, 12) + ssnd), HasSubstr("no chunk 'COMM'"));
  EXPECT_THAT(refusal(file.substr(0, 12) + "NAME\xFF\xFF\xFF\xFF"),
              HasSubstr("extends past the end of the file, byte 12"));
}

/// libsndfile keeps the reason of a failure in a global variable.
TEST(AudioFile, ReasonsDoNotDependOnOtherThreads) {
  std::string damaged = write_audio(tone(8000, 0.01, 440), 8000, ".flac").substr(0, 30);
  const std::vector<std::string> files = {damaged, wav(0x31FF, 1, 8000, 16, int16({1, 2})),
                                          std::string(".snd\0\0\0\x18\0\0\0\0\0\0\0\x63\0\0\1\0\0\0\0\1", 24),
                                          "OggS not really"};
  std::vector<std::string> reasons;
  for (const std::string& file : files) reasons.push_back(refusal(file));
  std::atomic<int> other = 0;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < 400; ++i)
        if (refusal(files[(i + t) % files.size()]) != reasons[(i + t) % files.size()]) ++other;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(other, 0);
}

}  // namespace
}  // namespace perceiver
