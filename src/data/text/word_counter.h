// Words of a text: what word-level perplexity divides by, whatever the tokenizer.
#pragma once

#include <cstdint>
#include <string_view>

namespace perceiver {

/// Counts runs of anything but ASCII white space, over a text that comes in pieces.
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
