#include "data/text/sentencepiece_tokenizer.h"

#include <gmock/gmock.h>

#include "base/text.h"
#include "data/modality.h"
#include "data/text/text_lines.h"
#include "data/text/word_counter.h"
#include "tests/support/sentencepiece_model.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::sentencepiece_corpus;
using testing::sentencepiece_model;
using testing::sentencepiece_of;

using ::testing::HasSubstr;

TEST(SentencePiece, NothingIsLost) {
  const auto tokenizer = SentencePieceTokenizer::from_model(sentencepiece_model(), "model");
  for (const std::string& text :
       {std::string("the white whale said."), std::string("  two  spaces,\n\n\ttabs and lines \n"),
        std::string("Caf\xC3\xA9 \xF0\x9F\x90\xB3 \xE6\xB5\xB7"), std::string(), std::string(" "),
        sentencepiece_corpus()}) {
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
  EXPECT_LT(tokenizer->encode(sentencepiece_corpus()).size(), sentencepiece_corpus().size() / 3);
}

TEST(SentencePiece, IdsAreThreePastThePieces) {
  const auto tokenizer = SentencePieceTokenizer::from_model(sentencepiece_model(), "model");
  EXPECT_EQ(tokenizer->vocabulary(), 403);
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0, 1, 2}), "");
  EXPECT_THROW(tokenizer->decode(std::vector<int32_t>{403}), Error);
  EXPECT_THROW(tokenizer->decode(std::vector<int32_t>{-1}), Error);
  // Piece 0 is "unknown"; the 256 bytes follow.
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{3 + 1 + 'A'}), "A");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{3 + 1 + 0xC3, 3 + 1 + 0xA9}), "\xC3\xA9");
}

TEST(SentencePiece, TheWholeModelIsInItsSerializedForm) {
  const auto tokenizer = SentencePieceTokenizer::from_model(sentencepiece_model(), "model");
  EXPECT_TRUE(is_utf8(tokenizer->serialized()));
  const auto again = make_tokenizer(tokenizer->serialized());
  EXPECT_EQ(again->name(), "sentencepiece");
  EXPECT_EQ(again->encode("the captain saw the sea"), tokenizer->encode("the captain saw the sea"));
  EXPECT_EQ(again->serialized(), tokenizer->serialized());
}

TEST(SentencePiece, TrainingIsRepeatable) {
  EXPECT_EQ(sentencepiece_of(350), sentencepiece_of(350));
  EXPECT_EQ(sentencepiece_of(350, false), sentencepiece_of(350, false));
  EXPECT_NE(sentencepiece_of(350), sentencepiece_of(350, false));
}

TEST(SentencePiece, MistakesAreNamed) {
  EXPECT_THAT(message_of([] { SentencePieceTokenizer::from_model("nonsense", "some.model"); }),
              HasSubstr("some.model: not a SentencePiece model"));
  EXPECT_THAT(message_of([] { SentencePieceTokenizer::from_model("", "some.model"); }),
              HasSubstr("some.model"));
  EXPECT_THAT(message_of([] { make_tokenizer("sentencepiece"); }), HasSubstr("base64"));
  EXPECT_THAT(message_of([] { make_tokenizer("sentencepiece\n!!!!"); }), HasSubstr("base64"));
  EXPECT_THAT(message_of([] { make_tokenizer("wordpiece\nx"); }), HasSubstr("'wordpiece'"));
  const auto tokenizer = SentencePieceTokenizer::from_model(sentencepiece_model(), "model");
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

}  // namespace
}  // namespace perceiver
