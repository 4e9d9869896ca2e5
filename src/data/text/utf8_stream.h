// Bytes in, whole UTF-8 characters out: what can be printed while a model is still generating.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/utf8.h"

namespace perceiver {

/// Returns a character once its last byte has arrived. Ill-formed bytes are replaced as Unicode recommends
/// (section 3.9, "substitution of maximal subparts"; also the WHATWG decoder): each longest prefix of a
/// well-formed character, or else each single byte, becomes one U+FFFD. The output is always valid UTF-8.
class Utf8Stream {
 public:
  /// Takes one byte; returns the characters that it completes (often none).
  std::string put(uint8_t byte);
  std::string put(std::string_view bytes);
  /// The end: an unfinished character becomes one U+FFFD. The stream can then be reused.
  std::string flush();

 private:
  void take(uint8_t byte, std::string& out);

  Utf8State state_;
  std::string pending_;  ///< bytes of the unfinished character
};

}  // namespace perceiver
