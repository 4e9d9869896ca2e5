#include "data/text/word_counter.h"

#include <gtest/gtest.h>

#include "data/modality.h"
#include "tests/support/sentencepiece_model.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

TEST(WordCounter, PiecesMakeNoDifference) {
  const std::string text = " one\ttwo\n\nthree four-five  six ";
  WordCounter whole, parts;
  whole.add(text);
  for (const char c : text) parts.add(std::string_view(&c, 1));
  EXPECT_EQ(whole.words(), 5);
  EXPECT_EQ(parts.words(), 5);
}

}  // namespace
}  // namespace perceiver
