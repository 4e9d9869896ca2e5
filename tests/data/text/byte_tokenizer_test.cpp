#include "data/text/byte_tokenizer.h"

#include <gtest/gtest.h>

#include "perceiver/error.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

std::string every_byte() {
  std::string text;
  for (int b = 0; b < 256; ++b) text.push_back(static_cast<char>(b));
  return text;
}

TEST(ByteTokenizer, EveryByteIsItsValuePlusThree) {
  const ByteTokenizer tokenizer;
  const std::vector<int32_t> ids = tokenizer.encode(every_byte());
  ASSERT_EQ(ids.size(), 256u);
  for (int b = 0; b < 256; ++b) EXPECT_EQ(ids[b], b + 3);
  EXPECT_EQ(tokenizer.decode(ids), every_byte());
  EXPECT_EQ(tokenizer.vocabulary(), 259);
}

TEST(ByteTokenizer, SpecialTokensDecodeToNothing) {
  const std::vector<int32_t> ids = {sos_token, 'h' + 3, 'i' + 3, eos_token, pad_token};
  EXPECT_EQ(ByteTokenizer().decode(ids), "hi");
}

TEST(ByteTokenizer, IdsOutsideTheVocabularyAreErrors) {
  EXPECT_THROW(ByteTokenizer().decode(std::vector<int32_t>{259}), Error);
  EXPECT_THROW(ByteTokenizer().decode(std::vector<int32_t>{-1}), Error);
}

TEST(ByteTokenizer, IsMadeAgainFromItsSerializedForm) {
  const ByteTokenizer tokenizer;
  const std::unique_ptr<TextTokenizer> again = make_tokenizer(tokenizer.serialized());
  EXPECT_EQ(again->name(), "bytes");
  EXPECT_EQ(again->encode("a"), tokenizer.encode("a"));
  EXPECT_THROW(make_tokenizer(""), Error);
  EXPECT_THROW(make_tokenizer("byte"), Error);
  EXPECT_THROW(make_tokenizer("bytes\nmore"), Error);
}

}  // namespace
}  // namespace perceiver
