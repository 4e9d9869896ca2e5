#include "data/text/sentencepiece_tokenizer.h"

#include <gmock/gmock.h>

#include "base/text.h"
#include "data/modality.h"
#include "data/text/text_lines.h"
#include "data/text/word_counter.h"
#include "io/base64.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// Sentences enough for a few hundred pieces.
std::string corpus() {
  const char* syllables[] = {"wha", "le",   "cap", "tain", "sai",   "ling", "boat", "oc",
                             "ean", "deep", "har", "poon", "white", "ne",   "ver",  "more"};
  std::string text;
  uint32_t state = 1;
  for (int line = 0; line < 400; ++line) {
    for (int i = 0; i < 9; ++i) {
      state = state * 1664525 + 1013904223;
      text += syllables[state >> 28];
      text += syllables[state >> 24 & 15];
      text += i == 8 ? ".\n" : " ";
    }
  }
  return text;
}

std::string train(int64_t pieces, bool unigram = true) {
  const std::string text = corpus();
  size_t at = 0;
  SentencePieceTraining training;
  training.pieces = pieces;
  training.unigram = unigram;
  return train_sentencepiece(
      [&](std::string& line) {
        if (at >= text.size()) return false;
        const size_t end = text.find('\n', at);
        line = text.substr(at, end - at);
        at = end + 1;
        return true;
      },
      training);
}

const std::string& model() {
  static const std::string trained = train(400);
  return trained;
}

TEST(SentencePiece, NothingIsLost) {
  const auto tokenizer = SentencePieceTokenizer::from_model(model(), "model");
  for (const std::string& text :
       {std::string("the white whale said."), std::string("  two  spaces,\n\n\ttabs and lines \n"),
        std::string("Caf\xC3\xA9 \xF0\x9F\x90\xB3 \xE6\xB5\xB7"), std::string(), std::string(" "),
        corpus()}) {
    const std::vector<int32_t> ids = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(ids), text);
    std::string piece_by_piece;
    for (const int32_t id : ids) {
      EXPECT_GE(id, special_tokens);
      EXPECT_LT(id, tokenizer->vocabulary());
      piece_by_piece += tokenizer->decode({&id, 1});
    }
    EXPECT_EQ(piece_by_piece, text);
  }
  EXPECT_LT(tokenizer->encode(corpus()).size(), corpus().size() / 3);
}

TEST(SentencePiece, IdsAreThreePastThePieces) {
  const auto tokenizer = SentencePieceTokenizer::from_model(model(), "model");
  EXPECT_EQ(tokenizer->vocabulary(), 403);
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0, 1, 2}), "");
  EXPECT_THROW(tokenizer->decode(std::vector<int32_t>{403}), Error);
  EXPECT_THROW(tokenizer->decode(std::vector<int32_t>{-1}), Error);
  // Piece 0 is "unknown"; the 256 bytes follow.
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{3 + 1 + 'A'}), "A");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{3 + 1 + 0xC3, 3 + 1 + 0xA9}), "\xC3\xA9");
}

TEST(SentencePiece, TheWholeModelIsInItsSerializedForm) {
  const auto tokenizer = SentencePieceTokenizer::from_model(model(), "model");
  EXPECT_TRUE(is_utf8(tokenizer->serialized()));
  const auto again = make_tokenizer(tokenizer->serialized());
  EXPECT_EQ(again->name(), "sentencepiece");
  EXPECT_EQ(again->encode("the captain saw the sea"), tokenizer->encode("the captain saw the sea"));
  EXPECT_EQ(again->serialized(), tokenizer->serialized());
}

TEST(SentencePiece, TrainingIsRepeatable) {
  EXPECT_EQ(train(350), train(350));
  EXPECT_EQ(train(350, false), train(350, false));
  EXPECT_NE(train(350), train(350, false));
}

TEST(SentencePiece, MistakesAreNamed) {
  EXPECT_THAT(message_of([] { SentencePieceTokenizer::from_model("nonsense", "some.model"); }),
              HasSubstr("some.model: not a SentencePiece model"));
  EXPECT_THAT(message_of([] { SentencePieceTokenizer::from_model("", "some.model"); }),
              HasSubstr("some.model"));
  EXPECT_THAT(message_of([] { make_tokenizer("sentencepiece"); }), HasSubstr("base64"));
  EXPECT_THAT(message_of([] { make_tokenizer("sentencepiece\n!!!!"); }), HasSubstr("base64"));
  EXPECT_THAT(message_of([] { make_tokenizer("wordpiece\nx"); }), HasSubstr("'wordpiece'"));
  const auto tokenizer = SentencePieceTokenizer::from_model(model(), "model");
  EXPECT_THAT(message_of([&] { tokenizer->encode("ab\xFFzz"); }), HasSubstr("byte 2: not UTF-8"));
  EXPECT_THAT(message_of([] { train_sentencepiece([](std::string&) { return false; }, {}); }),
              HasSubstr("no text"));
  bool given = false;
  EXPECT_THAT(message_of([&] {
                train_sentencepiece(
                    [&](std::string& line) {
                      line = "too little";
                      return !std::exchange(given, true);
                    },
                    {});
              }),
              HasSubstr("8000 pieces"));
}

TEST(TextModality, CountsBytesAndWords) {
  const TempFolder folder;
  const std::string path = folder.write("m.model", model());
  const std::string text = "the whale\n saw  it";
  for (const std::string& tokenizer : {std::string("bytes"), path}) {
    const auto modality = open_modality("text", {{"tokenizer", tokenizer}});
    const TokenSequence s = modality->encode({"x", std::as_bytes(std::span(text))}).at(0);
    EXPECT_EQ(s.units, 18);
    EXPECT_EQ(s.words, 4);
    EXPECT_EQ(modality->decode(s, ".txt"), text);
    EXPECT_EQ(
        restore_modality("text", modality->tokenizer())->encode({"x", std::as_bytes(std::span(text))})[0].ids,
        s.ids);
  }
  const auto modality = open_modality("text", {{"tokenizer", path}});
  const std::string bad = "ab\xFF";
  EXPECT_THAT(message_of([&] {
                modality->encode({"a/b.txt", std::as_bytes(std::span(bad))});
              }),
              HasSubstr("a/b.txt: byte 2"));
}

TEST(WordCounter, PiecesMakeNoDifference) {
  const std::string text = " one\ttwo\n\nthree four-five  six ";
  WordCounter whole, parts;
  whole.add(text);
  for (const char c : text) parts.add(std::string_view(&c, 1));
  EXPECT_EQ(whole.words(), 5);
  EXPECT_EQ(parts.words(), 5);
}

TEST(Base64, GoesThereAndBack) {
  EXPECT_EQ(to_base64(""), "");
  EXPECT_EQ(to_base64("f"), "Zg==");
  EXPECT_EQ(to_base64("fo"), "Zm8=");
  EXPECT_EQ(to_base64("foo"), "Zm9v");
  EXPECT_EQ(to_base64("foobar"), "Zm9vYmFy");
  std::string bytes;
  for (int i = 0; i < 700; ++i) {
    EXPECT_EQ(from_base64(to_base64(bytes)), bytes);
    bytes += static_cast<char>(i * 37);
  }
  for (const char* bad : {"Z", "Zg=", "Z===", "====", "Zg=a", "Z!==", "Zh==", "Zm9="})
    EXPECT_FALSE(from_base64(bad).has_value()) << bad;
}

TEST(TextLines, TakesLinesEvenly) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) text += std::to_string(1000 + i) + "\n";
  folder.write("a.txt", text);
  folder.write("b.txt", "bad \xFF line\n\nlast line without end");
  const auto all = [&](int64_t max_bytes) {
    TextLines lines(list_files({folder.path()}, "x"), max_bytes);
    std::vector<std::string> found;
    for (std::string line; lines.next(line);) found.push_back(line);
    return found;
  };
  EXPECT_EQ(all(1 << 20).size(), 101u);
  EXPECT_EQ(all(1 << 20).back(), "last line without end");
  const std::vector<std::string> half = all(267);
  EXPECT_NEAR(static_cast<double>(half.size()), 50, 1);
  EXPECT_EQ(half[0], "1001");
  EXPECT_EQ(half[1], "1003");
}

TEST(TextLines, CutsLongLinesBetweenCharacters) {
  const TempFolder folder;
  std::string text = "a";
  while (text.size() < 10000) text += "\xC3\xA9";
  TextLines lines(list_files({folder.write("a.txt", text)}, "x"), 1 << 20);
  std::string line, joined;
  while (lines.next(line)) {
    EXPECT_TRUE(is_utf8(line));
    EXPECT_LE(line.size(), TextLines::max_line_bytes);
    joined += line;
  }
  EXPECT_EQ(joined, text);
}

}  // namespace
}  // namespace perceiver
