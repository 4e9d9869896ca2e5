#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <numbers>

#include "data/audio/audio_file.h"
#include "data/audio/mu_law.h"
#include "data/modality.h"
#include "data/special_tokens.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::vector<float> tone(int rate, double seconds, double frequency, double amplitude = 0.5) {
  std::vector<float> samples(static_cast<size_t>(std::llround(rate * seconds)));
  for (size_t i = 0; i < samples.size(); ++i)
    samples[i] = static_cast<float>(
        amplitude * std::sin(2 * std::numbers::pi * frequency * static_cast<double>(i) / rate));
  return samples;
}

void put(std::string& text, uint32_t value, int width) {
  for (int i = 0; i < width; ++i) text += static_cast<char>(value >> (8 * i));
}

/// A WAV file written by hand; `format` 1 = integers, 3 = floats.
std::string wav(int format, int channels, int rate, int bits, const std::string& data) {
  std::string text = "RIFF";
  put(text, static_cast<uint32_t>(36 + data.size()), 4);
  text += "WAVEfmt ";
  put(text, 16, 4), put(text, static_cast<uint32_t>(format), 2),
      put(text, static_cast<uint32_t>(channels), 2);
  put(text, static_cast<uint32_t>(rate), 4);
  put(text, static_cast<uint32_t>(rate * channels * bits / 8), 4);
  put(text, static_cast<uint32_t>(channels * bits / 8), 2), put(text, static_cast<uint32_t>(bits), 2);
  text += "data";
  put(text, static_cast<uint32_t>(data.size()), 4);
  return text + data;
}

std::string int16(std::initializer_list<int> samples) {
  std::string data;
  for (const int sample : samples) put(data, static_cast<uint32_t>(sample), 2);
  return data;
}

double rms_difference(const std::vector<float>& a, const std::vector<float>& b, size_t margin) {
  double sum = 0;
  for (size_t i = margin; i + margin < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum / static_cast<double>(a.size() - 2 * margin));
}

TEST(MuLaw, EveryLevelComesBack) {
  for (int32_t level = 0; level < 256; ++level) EXPECT_EQ(mu_law_encode(mu_law_decode(level)), level);
  EXPECT_EQ(mu_law_encode(-1), 0);
  EXPECT_EQ(mu_law_encode(1), 255);
  EXPECT_EQ(mu_law_encode(0), 128);
  EXPECT_EQ(mu_law_encode(7), 255);
  EXPECT_FLOAT_EQ(mu_law_decode(255), 1);
  EXPECT_FLOAT_EQ(mu_law_decode(0), -1);
}

// Between levels 127 and 128 lies silence; a step in x is ln(256) (1 + 255 |x|) / 255 times one in the level.
TEST(MuLaw, ErrorsAreSmallWhereTheSoundIs) {
  for (int i = -1000; i <= 1000; ++i) {
    const float x = static_cast<float>(i) / 1000;
    const double step = std::log(256.0) * (1 + 255 * std::abs(x)) / 255 * 2 / 255;
    EXPECT_NEAR(mu_law_decode(mu_law_encode(x)), x, 0.52 * step) << x;
  }
}

TEST(Audio, WritesAndReads) {
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

TEST(Audio, MixesChannelsToTheirMean) {
  const Audio audio =
      read_audio(bytes(wav(1, 2, 8000, 16, int16({16384, 0, -16384, 16384, 32767, 32767}))), 8000, "x");
  ASSERT_EQ(audio.samples.size(), 3u);
  EXPECT_EQ(audio.file_channels, 2);
  EXPECT_FLOAT_EQ(audio.samples[0], 0.25f);
  EXPECT_FLOAT_EQ(audio.samples[1], 0);
  EXPECT_NEAR(audio.samples[2], 1, 1e-4);
}

TEST(Audio, ResamplesATone) {
  for (const auto& [from, to] : {std::pair{44100, 16000}, {8000, 16000}, {48000, 8000}}) {
    const Audio audio = read_audio(bytes(write_audio(tone(from, 0.5, 440), from, ".wav")), to, "x");
    const std::vector<float> wanted = tone(to, 0.5, 440);
    EXPECT_NEAR(static_cast<double>(audio.samples.size()), static_cast<double>(wanted.size()), 2);
    std::vector<float> compared = audio.samples;
    compared.resize(wanted.size());
    EXPECT_LT(rms_difference(compared, wanted, 400), 2e-3) << from << " to " << to;
  }
}

TEST(Audio, ATonePastTheNewRateIsFilteredOut) {
  const Audio audio = read_audio(bytes(write_audio(tone(48000, 0.5, 7000), 48000, ".wav")), 8000, "x");
  double power = 0;
  for (const float sample : audio.samples) power += static_cast<double>(sample) * sample;
  EXPECT_LT(std::sqrt(power / static_cast<double>(audio.samples.size())), 0.005);
}

TEST(Audio, NoNumbersAreSilence) {
  std::string data(12, '\0');
  const float values[] = {std::nanf(""), INFINITY, -5};
  std::memcpy(data.data(), values, 12);
  EXPECT_EQ(read_audio(bytes(wav(3, 1, 8000, 32, data)), 8000, "x").samples, (std::vector<float>{0, 1, -1}));
}

TEST(Audio, WhatIsNoSoundIsRefused) {
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
TEST(Audio, ALengthThatLiesIsNotBelieved) {
  std::string file = wav(1, 1, 8000, 16, int16({1, 2, 3, 4}));
  for (const size_t at : {size_t{4}, size_t{40}})
    for (size_t i = 0; i < 4; ++i) file[at + i] = static_cast<char>(0x7F);
  EXPECT_EQ(read_audio(bytes(file), 8000, "x").samples.size(), 4u);
}

TEST(Audio, TitlesAndMarkersAreLeftOut) {
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

TEST(Audio, ChunksPastTheEndOfTheFileAreRefused) {
  const auto error = [](const std::string& file) {
    return message_of([&] { read_audio(bytes(file), 8000, "a.wav"); });
  };
  std::string endless = "RIFF";  // libsndfile 1.2 reads this list for ever
  put(endless, 60, 4);
  endless += "WAVELISTA" + std::string(60, '\xFF');
  EXPECT_THAT(error(endless),
              HasSubstr("a.wav: damaged: the chunk 'LIST' of 4294967105 bytes extends past the end"));
  EXPECT_THAT(error(wav(1, 1, 8000, 16, "").substr(0, 36)), HasSubstr("no samples"));
}

TEST(Audio, LengthsOf64Bits) {
  std::string file = wav(1, 1, 8000, 16, int16({1, 2, 3, 4}));
  std::string sizes = "ds64";
  put(sizes, 28, 4), put(sizes, 80, 4), put(sizes, 0, 4), put(sizes, 6, 4), put(sizes, 0, 4),
      put(sizes, 3, 4);
  put(sizes, 0, 4), put(sizes, 0, 4);
  file.replace(0, 4, "RF64").replace(4, 4, "\xFF\xFF\xFF\xFF").replace(40, 4, "\xFF\xFF\xFF\xFF");
  file.insert(12, sizes);
  EXPECT_EQ(read_audio(bytes(file), 8000, "x").samples.size(), 3u);
}

TEST(AudioModality, SamplesAreTokens) {
  const auto audio = open_modality("audio", {{"sample_rate", "8000"}});
  const std::string file = wav(1, 1, 8000, 16, int16({0, 32767, -32768, 100}));
  const std::vector<TokenSequence> documents = audio->encode({"x.wav", bytes(file)});
  ASSERT_EQ(documents.size(), 1u);
  EXPECT_EQ(documents[0].ids, (std::vector<int32_t>{131, 258, 3, mu_law_encode(100.0f / 32768) + 3}));
  EXPECT_EQ(documents[0].units, 4);
  EXPECT_EQ(audio->format().vocabulary, 259);
  EXPECT_EQ(audio->format().unit, "sample");
  EXPECT_TRUE(audio->format().ends);
}

TEST(AudioModality, TokensAreAFixedPoint) {
  const auto audio = open_modality("audio", {{"sample_rate", "8000"}});
  TokenSequence all;
  for (int32_t id = 3; id < 259; ++id) all.ids.push_back(id);
  for (const char* ending : {".wav", ".flac"}) {
    const std::string file = audio->decode(all, ending);
    EXPECT_EQ(audio->encode({"x", bytes(file)})[0].ids, all.ids);
  }
  TokenSequence special{{sos_token, 131, eos_token, pad_token}, {}, 0, 0};
  EXPECT_EQ(audio->encode({"x", bytes(audio->decode(special, ".wav"))})[0].ids, std::vector<int32_t>{131});
  EXPECT_THROW(audio->decode({{259}, {}, 0, 0}, ".wav"), Error);
  EXPECT_THROW(audio->decode({{-1}, {}, 0, 0}, ".wav"), Error);
}

TEST(AudioModality, PromptsAreMeasuredInSecondsOrTokens) {
  const auto audio = open_modality("audio", {{"sample_rate", "8000"}});
  const std::string file = write_audio(tone(8000, 1, 440), 8000, ".wav");
  PromptOptions options;
  options.seconds = 0.25;
  EXPECT_EQ(audio->prompt({"x", bytes(file)}, options).beginning.ids.size(), 2000u);
  options = {};
  options.tokens = 7;
  EXPECT_EQ(audio->prompt({"x", bytes(file)}, options).beginning.ids.size(), 7u);
  EXPECT_EQ(audio->prompt({"x", bytes(file)}, {}).beginning.ids.size(), 8000u);
  options.rows = 1;
  EXPECT_THROW(audio->prompt({"x", bytes(file)}, options), Error);
}

TEST(AudioModality, CompareTellsTheNoise) {
  const auto audio = open_modality("audio", {{"sample_rate", "8000"}});
  const std::string file = write_audio(tone(8000, 0.5, 440), 8000, ".wav");
  const std::string report = audio->compare({"x", bytes(file)});
  EXPECT_THAT(report, HasSubstr("4000 samples in 1 channels, 8000 per second"));
  const size_t at = report.find("noise ");
  const double decibels = std::stod(report.substr(at + 6));
  EXPECT_GT(decibels, 33);  // 8-bit mu-law of a sine
  EXPECT_LT(decibels, 45);
}

}  // namespace
}  // namespace perceiver
