// Counts the words of a text: the divisor of word-level perplexity, independent of the tokenizer.
#pragma once

#include <cstdint>
#include <string_view>

namespace perceiver {

/// Counts runs of characters other than ASCII white space in a text given in pieces.
class WordCounter {
 public:
  void add(std::string_view piece) {
    for (const char c : piece) {
      const bool space = c == ' ' || (c >= '\t' && c <= '\r');
      if (!space && !inside_) ++words_;
      inside_ = !space;
    }
  }
  int64_t words() const { return words_; }

 private:
  int64_t words_ = 0;
  bool inside_ = false;
};

}  // namespace perceiver
