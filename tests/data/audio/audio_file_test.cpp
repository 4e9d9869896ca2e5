#include "data/audio/audio_file.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "data/audio/mu_law.h"
#include "data/modality.h"
#include "data/special_tokens.h"
#include "tests/support/user_error.h"
#include "tests/support/wav_bytes.h"

namespace perceiver {
namespace {

using testing::int16;
using testing::put_little_endian;
using testing::tone;
using testing::wav;

using ::testing::HasSubstr;

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
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
    const Audio audio = read_audio(bytes(file), 8000, "x");
    ASSERT_EQ(audio.samples.size(), samples.size());
    EXPECT_EQ(audio.file_rate, 8000);
    EXPECT_EQ(audio.file_channels, 1);
    for (size_t i = 0; i < samples.size(); ++i) EXPECT_NEAR(audio.samples[i], samples[i], 1.0 / 32000);
  }
  EXPECT_EQ(read_audio(bytes(write_audio({}, 8000, ".wav")), 8000, "x").samples.size(), 0u);
  EXPECT_THAT(message_of([&] { write_audio(samples, 8000, ".ogg"); }), HasSubstr(".wav or .flac"));
}

TEST(AudioFile, MixesChannelsToTheirMean) {
  const Audio audio =
      read_audio(bytes(wav(1, 2, 8000, 16, int16({16384, 0, -16384, 16384, 32767, 32767}))), 8000, "x");
  ASSERT_EQ(audio.samples.size(), 3u);
  EXPECT_EQ(audio.file_channels, 2);
  EXPECT_FLOAT_EQ(audio.samples[0], 0.25f);
  EXPECT_FLOAT_EQ(audio.samples[1], 0);
  EXPECT_NEAR(audio.samples[2], 1, 1e-4);
}

TEST(AudioFile, ResamplesATone) {
  for (const auto& [from, to] : {std::pair{44100, 16000}, {8000, 16000}, {48000, 8000}}) {
    const Audio audio = read_audio(bytes(write_audio(tone(from, 0.5, 440), from, ".wav")), to, "x");
    const std::vector<float> wanted = tone(to, 0.5, 440);
    EXPECT_NEAR(static_cast<double>(audio.samples.size()), static_cast<double>(wanted.size()), 2);
    std::vector<float> compared = audio.samples;
    compared.resize(wanted.size());
    EXPECT_LT(rms_difference(compared, wanted, 400), 2e-3) << from << " to " << to;
  }
}

TEST(AudioFile, ATonePastTheNewRateIsFilteredOut) {
  const Audio audio = read_audio(bytes(write_audio(tone(48000, 0.5, 7000), 48000, ".wav")), 8000, "x");
  double power = 0;
  for (const float sample : audio.samples) power += static_cast<double>(sample) * sample;
  EXPECT_LT(std::sqrt(power / static_cast<double>(audio.samples.size())), 0.005);
}

TEST(AudioFile, NoNumbersAreSilence) {
  std::string data(12, '\0');
  const float values[] = {std::nanf(""), INFINITY, -5};
  std::memcpy(data.data(), values, 12);
  EXPECT_EQ(read_audio(bytes(wav(3, 1, 8000, 32, data)), 8000, "x").samples, (std::vector<float>{0, 1, -1}));
}

TEST(AudioFile, WhatIsNoSoundIsRefused) {
  const auto error = [](const std::string& file) {
    return message_of([&] { read_audio(bytes(file), 8000, "a/b.wav"); });
  };
  EXPECT_THAT(error("RIFF"), HasSubstr("a/b.wav: not a supported audio file"));
  EXPECT_THAT(error(""), HasSubstr("not a supported audio file"));
  EXPECT_THAT(error(wav(1, 1, 7, 16, int16({1, 2}))), HasSubstr("7 samples per second"));
  EXPECT_THAT(error(wav(1, 65, 8000, 16, std::string(130, 'a'))), HasSubstr("65 channels"));
  const std::string flac = write_audio(tone(8000, 1, 440), 8000, ".flac");
  std::string damaged = flac;
  for (size_t i = flac.size() / 2; i < flac.size() / 2 + 64; ++i) damaged[i] = static_cast<char>(~damaged[i]);
  try {  // a decoder may conceal the damage, but no more than that
    EXPECT_LE(read_audio(bytes(damaged), 8000, "x").samples.size(), 16000u);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::user);
  }
}

// The file is named longer than it is: what is there is read, nothing is allocated on its word.
TEST(AudioFile, ALengthThatLiesIsNotBelieved) {
  std::string file = wav(1, 1, 8000, 16, int16({1, 2, 3, 4}));
  for (const size_t at : {size_t{4}, size_t{40}})
    for (size_t i = 0; i < 4; ++i) file[at + i] = static_cast<char>(0x7F);
  EXPECT_EQ(read_audio(bytes(file), 8000, "x").samples.size(), 4u);
}

TEST(AudioFile, TitlesAndMarkersAreLeftOut) {
  std::string file = wav(1, 1, 8000, 16, int16({1000, -1000}));
  const std::string list = std::string("LIST\x05\0\0\0INFO!\0", 14);
  file.insert(12, list);                     // before the description, of odd length
  file.insert(12 + list.size() + 24, list);  // between it and the samples
  file += "LIST";                            // what comes after the samples is not read: a length missing
  const Audio audio = read_audio(bytes(file), 8000, "a.wav");
  ASSERT_EQ(audio.samples.size(), 2u);
  EXPECT_FLOAT_EQ(audio.samples[0], 1000.0f / 32768);
  EXPECT_FLOAT_EQ(audio.samples[1], -1000.0f / 32768);
}

TEST(AudioFile, ChunksPastTheEndOfTheFileAreRefused) {
  const auto error = [](const std::string& file) {
    return message_of([&] { read_audio(bytes(file), 8000, "a.wav"); });
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
  EXPECT_EQ(read_audio(bytes(file), 8000, "x").samples.size(), 3u);
}

}  // namespace
}  // namespace perceiver
