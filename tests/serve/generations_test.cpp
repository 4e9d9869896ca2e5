// POST /v1/generate and /v1/score for data that is no text.
#include "serve/generations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/base64.h"
#include "tests/support/test_server.h"

namespace perceiver {
namespace {

using namespace testing;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr const char* kPath = "/v1/generate";

Json note(double start, double end, int pitch) {
  return {{"start", start}, {"end", end}, {"pitch", pitch}, {"velocity", 63}};
}

TEST(Generations, OfMusicKeepTheGivenNotes) {
  const TestServer server({}, {}, "music", {}, 64);
  const Json notes = {note(0, 0.5, 60), note(0.5, 1, 64)};
  const Json answer =
      server.answer(kPath, {{"notes", notes}, {"max_tokens", 40}, {"seed", 1}, {"file_type", "mid"}});
  const Json& choice = answer["choices"][0];
  EXPECT_EQ(answer["modality"], "music");
  ASSERT_GE(choice["notes"].size(), 2u);
  EXPECT_EQ(choice["notes"][0]["pitch"], 60);
  EXPECT_EQ(choice["notes"][1]["start"], 0.5);
  EXPECT_THAT(from_base64(choice["file"].get<std::string>()).value(), ::testing::StartsWith("MThd"));
  const Json first =
      server.answer(kPath, {{"notes", notes}, {"seconds", 0.5}, {"max_tokens", 1}, {"seed", 1}});
  for (const Json& each : first["choices"][0]["notes"]) EXPECT_NE(each["pitch"], 64);
}

TEST(Generations, StreamEachNoteOnce) {
  const TestServer server({}, {}, "music", {}, 64);
  Json request{{"notes", {note(0, 0.5, 60)}}, {"max_tokens", 300}, {"seed", 3}, {"ignore_eos", true}};
  const Json whole = server.answer(kPath, request)["choices"][0]["notes"];
  request["stream"] = true;
  const std::string body = server.post(kPath, request.dump())->body;
  Json streamed = Json::array(), beginning;
  for (size_t at = body.find("data: {"); at != std::string::npos; at = body.find("data: {", at + 1)) {
    const Json event = Json::parse(body.substr(at + 6, body.find("\n\n", at) - at - 6));
    if (event.contains("beginning")) beginning = event["beginning"]["notes"];
    for (const Json& choice : event["choices"])
      if (choice.contains("notes"))
        for (const Json& each : choice["notes"]) streamed.push_back(each);
  }
  EXPECT_EQ(beginning, Json::array({note(0, 0.5, 60)}));
  EXPECT_EQ(streamed.size() + 1, whole.size());
  EXPECT_THAT(body, ::testing::EndsWith("data: [DONE]\n\n"));
}

TEST(Generations, OfPicturesKeepWhatIsKnown) {
  const TestServer server({}, {}, "image", {{"size", "4"}}, 48);
  Json pixels = Json::array(), known = Json::array();
  for (int i = 0; i < 48; ++i) pixels.push_back(i * 5);
  for (int i = 0; i < 16; ++i) known.push_back(i % 3 == 0 ? 1 : 0);
  const Json image{{"width", 4}, {"height", 4}, {"channels", 3}, {"pixels", pixels}};
  const Json answer = server.answer(kPath, {{"image", image}, {"known", known}, {"n", 2}, {"seed", 1}});
  ASSERT_EQ(answer["choices"].size(), 2u);
  for (const Json& choice : answer["choices"]) {
    const std::string made = from_base64(choice["image"]["pixels"].get<std::string>()).value();
    ASSERT_EQ(made.size(), 48u);
    for (size_t i = 0; i < 48; i += 9)
      for (size_t c = 0; c < 3; ++c) EXPECT_EQ(static_cast<uint8_t>(made[i + c]), (i + c) * 5);
    EXPECT_EQ(choice["tokens"], 30);
  }
}

TEST(Generations, OfSoundMayBeTheFileAlone) {
  const TestServer server({}, {}, "audio", {{"sample_rate", "8000"}}, 64);
  const Json request{{"sound", {{"rate", 8000}, {"samples", {0, 0.25, -0.25}}}},
                     {"max_tokens", 20},
                     {"ignore_eos", true},
                     {"file_type", "wav"},
                     {"raw", true}};
  const auto file = server.post(kPath, request.dump());
  ASSERT_TRUE(file);
  EXPECT_EQ(file->get_header_value("Content-Type"), "audio/wav");
  EXPECT_THAT(file->body, ::testing::StartsWith("RIFF"));
}

TEST(Generations, RefuseWhatCannotBeMet) {
  const TestServer music({}, {}, "music", {}, 64);
  const std::pair<const char*, const char*> cases[] = {
      {R"({"notes": [{"start": 0, "end": 1}]})", "notes[0].pitch is missing"},
      {R"({"notes": [{"start": -1, "end": 1, "pitch": 3}]})", "notes[0].start must be a number from 0"},
      {R"({"notes": 4})", "notes must be a list"},
      {R"({"notes": [], "ids": []})", "notes and ids are given; give one of them"},
      {R"({"file": "%%%"})", "file must be base64"},
      {R"({"file": "AAAA"})", "not a MIDI file"},
      {R"({"seconds": 3})", "parts of something"},
      {R"({"notes": [], "rows": 1})", "rows and known are for images"},
      {R"({"file_type": "gif"})", "models of music write .mid, .png, .wav"},
      {R"({"raw": true})", "raw needs file_type"},
      {R"({"image": {"width": 2, "height": 2, "pixels": [1]}})", "image.pixels has 1 values"},
      {R"({"image": {"width": 100000, "height": 2}})", "image.width must be a whole number from 1 to 16384"},
      {R"({"sound": {"rate": 8000, "samples": [2]}})", "sound.samples[0] must be a number from -1 to 1"},
      {R"({"ids": [400]})", "400"},
  };
  for (const auto& [body, message] : cases)
    EXPECT_THAT(music.refusal(kPath, body), HasSubstr(message)) << body;
  EXPECT_THAT(music.refusal("/v1/completions", "{}"),
              HasSubstr("small is a model of music; use /v1/generate"));
}

TEST(Scores, AreThoseOfTheModel) {
  const TestServer text;
  const Json answer = text.answer("/v1/score", {{"input", {"one", "three"}}});
  const Score score = api_model().score(std::string("three"));
  ASSERT_EQ(answer["data"].size(), 2u);
  EXPECT_NEAR(answer["data"][1]["sum"].get<double>(), -score.nats, 1e-4);
  EXPECT_EQ(answer["data"][1]["token_logprobs"].size(), score.log_probabilities.size());
  EXPECT_EQ(answer["data"][1]["tokens"][0], "t");
  EXPECT_THAT(text.refusal("/v1/score", "{}"), HasSubstr("input is missing"));
  EXPECT_THAT(text.refusal("/v1/score", R"({"input": [{}]})"), HasSubstr("no content"));
  const TestServer music({}, {}, "music", {}, 64);
  const Json notes = music.answer("/v1/score", {{"input", {{"notes", {note(0, 1, 60)}}}}});
  EXPECT_LT(notes["data"][0]["sum"].get<double>(), 0);
}

}  // namespace
}  // namespace perceiver
