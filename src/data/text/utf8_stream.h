// Bytes in, whole UTF-8 characters out: what a terminal may be sent while a model is still writing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace perceiver {

/// Releases a character once its last byte has come. Whatever cannot be UTF-8 is replaced as Unicode
/// recommends (section 3.9, "substitution of maximal subparts", also the WHATWG decoder): each longest
/// beginning of a well-formed character, else each single byte, becomes one U+FFFD. The output is therefore
/// always valid UTF-8.
class Utf8Stream {
 public:
  /// Takes one byte; returns the characters that are now certain (often none).
  std::string put(uint8_t byte);
  std::string put(std::string_view bytes);
  /// The end: an unfinished character becomes one U+FFFD. The stream can then be used anew.
  std::string flush();

 private:
  void take(uint8_t byte, std::string& out);
  void start(uint8_t byte, std::string& out);

  std::string pending_;    ///< bytes of the unfinished character
  int missing_ = 0;        ///< bytes it still needs
  uint8_t lowest_ = 0x80;  ///< range of the next continuation byte: narrower after E0, ED, F0 and F4
  uint8_t highest_ = 0xBF;
};

}  // namespace perceiver
