#include "perceiver/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "perceiver/error.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using namespace testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

Image picture(int64_t width, int64_t height, int64_t channels) {
  Image image(width, height, channels);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(37 * i % 251);
  return image;
}

TEST(PublicTokenizer, TurnsTextIntoBytesAndBack) {
  const Tokenizer text = Tokenizer::open("text");
  EXPECT_EQ(text.info().name, "bytes");
  EXPECT_EQ(text.info().unit, "byte");
  EXPECT_EQ(text.info().vocabulary, 259);
  const TokenSequence tokens = text.encode("grün ist");
  EXPECT_EQ(tokens.units, 9);
  EXPECT_EQ(tokens.words, 2);
  EXPECT_EQ(std::get<std::string>(text.decode(tokens)), "grün ist");
  EXPECT_EQ(text.decode_bytes(tokens, ".txt"), "grün ist");
  EXPECT_THAT(text.prompt("ab").tokens, ElementsAre(2, 100, 101));
  EXPECT_THAT(text.prompt().tokens, ElementsAre(2));
  EXPECT_EQ(text.prompt().remaining, 0);
}

TEST(PublicTokenizer, TurnsPixelsIntoTokensAndBack) {
  const Tokenizer images = Tokenizer::open("image", {{"size", "8x6"}, {"order", "r_g_b"}});
  EXPECT_EQ(images.info().width, 8);
  EXPECT_EQ(images.info().height, 6);
  EXPECT_EQ(images.info().channels, 3);
  EXPECT_EQ(images.info().fixed_length, 8 * 6 * 3);
  EXPECT_EQ(images.info().axes, 3);
  const Image image = picture(8, 6, 3);
  const TokenSequence tokens = images.encode(image);
  EXPECT_EQ(std::get<Image>(images.decode(tokens)), image);
  // A larger one is cropped and resized as its file is.
  const Image large = picture(40, 24, 1);
  const TempFolder folder;
  const Tokenizer as_stored = Tokenizer::open("image", {{"size", "40x24"}, {"colour", "grey"}});
  as_stored.write({as_stored.encode(large)}, folder.path("large.png"));
  EXPECT_EQ(images.encode(large).ids, images.encode_file(folder.path("large.png"))[0].ids);
  EXPECT_EQ(images.prompt().remaining, 8 * 6 * 3);
  EXPECT_FALSE(images.prompt().may_end);
}

TEST(PublicTokenizer, CompletesImagesFromAnyPixels) {
  const Tokenizer images = Tokenizer::open("image", {{"size", "4"}});
  const Image image = picture(4, 4, 3);
  std::vector<uint8_t> known(16, 0);
  known[5] = known[6] = known[15] = 1;
  const TokenPrompt prompt = images.complete(image, known);
  EXPECT_THAT(prompt.tokens, SizeIs(1 + 9));
  EXPECT_EQ(prompt.remaining, 48 - 9);
  ASSERT_THAT(prompt.positions, SizeIs(3 * 49));
  // The known bytes are where their positions say.
  for (size_t i = 1; i < prompt.tokens.size(); ++i) {
    const int64_t x = prompt.positions[3 * i] - 2, y = prompt.positions[3 * i + 1] - 2;
    const int32_t value = image.at(x, y)[prompt.positions[3 * i + 2] - 2];
    EXPECT_EQ(prompt.tokens[i], 3 + value);
    EXPECT_NE(known[static_cast<size_t>(4 * y + x)], 0);
  }
  EXPECT_THAT(message_of([&] { images.complete(image, {1, 2}); }), HasSubstr("2 known pixels"));
  EXPECT_THAT(message_of([&] { Tokenizer::open("text").complete(image, known); }), HasSubstr("only images"));
}

TEST(PublicTokenizer, TurnsNotesIntoEventsAndBack) {
  const Tokenizer music = Tokenizer::open("music");
  // Out of order; two of one pitch overlap, so that the first one ends where the second begins.
  const Notes notes{{2'000'000, 2'500'000, 64, 63}, {0, 1'000'000, 60, 63}, {500'000, 1'500'000, 60, 63}};
  const Notes sounded{{0, 500'000, 60, 63}, {500'000, 1'500'000, 60, 63}, {2'000'000, 2'500'000, 64, 63}};
  EXPECT_EQ(std::get<Notes>(music.decode(music.encode(notes))), sounded);
  EXPECT_EQ(music.decode_bytes(music.encode(notes), ".mid").substr(0, 4), "MThd");
  EXPECT_THAT(message_of([&] {
                music.encode(Notes{{0, 1, 60, 64}, {0, 1, 128, 64}});
              }),
              HasSubstr("note 1: pitch 128"));
  EXPECT_THAT(message_of([&] { music.encode(Notes{{5, 1, 60, 64}}); }), HasSubstr("note 0: times"));
  EXPECT_FALSE(music.prompt().masks.empty() && music.info().vocabulary > 391);
}

TEST(PublicTokenizer, TurnsSoundIntoSamplesAndBack) {
  const Tokenizer audio = Tokenizer::open("audio", {{"sample_rate", "8000"}});
  EXPECT_EQ(audio.info().sample_rate, 8000);
  Sound tone{std::vector<float>(16000), 16000};
  for (size_t i = 0; i < tone.samples.size(); ++i)
    tone.samples[i] = 0.5f * std::sin(0.05f * static_cast<float>(i));
  const Sound back = std::get<Sound>(audio.decode(audio.encode(tone)));
  EXPECT_EQ(back.rate, 8000);
  ASSERT_NEAR(static_cast<double>(back.samples.size()), 8000, 2);
  for (size_t i = 100; i < 7900; ++i) ASSERT_NEAR(back.samples[i], tone.samples[2 * i], 0.03) << i;
  EXPECT_THAT(message_of([&] { audio.encode(Sound{{0.0f}, 0}); }), HasSubstr("0 samples per second"));
}

TEST(PublicTokenizer, TurnsCodesAndIdsIntoTokensAndBack) {
  const Tokenizer codec = Tokenizer::open("codec", {{"levels", "2"}, {"codes", "10,20"}});
  const Codes codes{2, {9, 19, 0, 0, 5, 7}};
  EXPECT_EQ(codec.encode(codes).ids, (std::vector<int32_t>{12, 32, 3, 13, 8, 20}));
  EXPECT_EQ(std::get<Codes>(codec.decode(codec.encode(codes))), codes);
  EXPECT_EQ(codes.frames(), 3);
  EXPECT_THAT(message_of([&] {
                codec.encode(Codes{2, {0, 0, 10, 0}});
              }),
              HasSubstr("frame 1: code 10 of level 0"));
  EXPECT_THAT(message_of([&] { codec.encode(Codes{3, {0, 0, 1}}); }), HasSubstr("of 3 levels"));

  const Tokenizer ids = Tokenizer::open("tokens", {{"values", "9"}, {"position_values", "4,4"}});
  const TokenSequence sequence{.ids = {3, 11}, .positions = {2, 2, 5, 5}, .units = 2};
  EXPECT_EQ(std::get<TokenSequence>(ids.decode(ids.encode(sequence))), sequence);
  EXPECT_THAT(message_of([&] {
                ids.encode(TokenSequence{{3, 12}, {2, 2, 2, 2}});
              }),
              HasSubstr("id 1 of the sequence is 12"));
  EXPECT_THAT(message_of([&] {
                ids.encode(TokenSequence{{3}, {2, 6}});
              }),
              HasSubstr("position 6 of id 0 on axis 1"));
  EXPECT_THAT(message_of([&] { ids.encode(TokenSequence{{3}, {}}); }), HasSubstr("with 0 positions"));
}

TEST(PublicTokenizer, RefusesOtherKindsOfContent) {
  EXPECT_THAT(message_of([] { Tokenizer::open("music").encode("la la"); }),
              HasSubstr("a text cannot be encoded by a tokenizer for music"));
  EXPECT_THAT(message_of([] { Tokenizer::open("musik"); }), HasSubstr("did you mean 'music'"));
  EXPECT_THAT(message_of([] { Tokenizer::open("image").encode(Image(0, 4, 3)); }), HasSubstr("the image"));
  EXPECT_THAT(message_of([] { Tokenizer::open("image").encode(Image(4, 4, 2)); }), HasSubstr("2 channels"));
}

TEST(PublicTokenizer, IsRestoredFromItsDescription) {
  for (const char* modality : {"text", "image", "music", "audio", "codec", "tokens"}) {
    const Tokenizer original = Tokenizer::open(modality);
    const Tokenizer again = Tokenizer::restore(modality, original.serialized());
    EXPECT_EQ(again.serialized(), original.serialized());
    EXPECT_EQ(again.info().vocabulary, original.info().vocabulary);
    EXPECT_EQ(again.info().modality, modality);
    EXPECT_EQ(again.info().writes, original.info().writes);
  }
  EXPECT_EQ(Tokenizer::restore("copy", "bytes").info().vocabulary, 259);
  EXPECT_THROW(Tokenizer::restore("image", "nonsense"), Error);
}

TEST(PublicTokenizer, ReadsAndWritesFiles) {
  const TempFolder folder;
  std::ofstream(folder.path("a.txt")) << "hello";
  const Tokenizer text = Tokenizer::open("text");
  EXPECT_EQ(text.encode_file(folder.path("a.txt")), text.encode_bytes("hello", "a.txt"));
  EXPECT_THAT(text.prompt_file(folder.path("a.txt"), {.tokens = 2}).tokens, ElementsAre(2, 107, 104));
  EXPECT_THAT(text.write({text.encode("x"), text.encode("y")}, folder.path("b.txt")),
              ElementsAre(folder.path("b-1.txt"), folder.path("b-2.txt")));
  EXPECT_THROW(text.encode_file(folder.path("missing.txt")), Error);
}

}  // namespace
}  // namespace perceiver
