#include <gmock/gmock.h>

#include "data/audio/audio_file.h"
#include "data/audio/mu_law.h"
#include "data/modality.h"
#include "perceiver/special_tokens.h"
#include "tests/support/user_error.h"
#include "tests/support/wav_bytes.h"

namespace perceiver {
namespace {

using testing::int16;
using testing::tone;
using testing::wav;

using ::testing::HasSubstr;

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
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
  PromptPart options;
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
