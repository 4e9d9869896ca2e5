#include <gmock/gmock.h>

#include "data/modality.h"
#include "data/text/sentencepiece_tokenizer.h"
#include "data/text/text_lines.h"
#include "data/text/word_counter.h"
#include "tests/support/sentencepiece_model.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::sentencepiece_model;

using ::testing::HasSubstr;

TEST(TextModality, CountsBytesAndWords) {
  const TempFolder folder;
  const std::string path = folder.write("m.model", sentencepiece_model());
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
              HasSubstr("a/b.txt: is not UTF-8 text: byte 2 is FF"));
}

}  // namespace
}  // namespace perceiver
