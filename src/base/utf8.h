// The one definition of well-formed UTF-8, a byte at a time.
#pragma once

#include <cstdint>

namespace perceiver {

/// Whether the byte can only continue a character.
constexpr bool is_utf8_continuation(uint8_t byte) {
  return (byte & 0xC0) == 0x80;
}

/// Follows a text and knows which bytes may come next (Unicode, table 3-7: no overlong forms, surrogates or
/// values past U+10FFFF).
class Utf8State {
 public:
  bool accepts(uint8_t byte) const;
  /// Takes a byte; false, and the state unchanged, if it cannot come here.
  bool put(uint8_t byte);
  /// Whether the last character is complete.
  bool whole() const { return missing_ == 0; }

 private:
  int missing_ = 0;        ///< bytes that the character still needs
  uint8_t lowest_ = 0x80;  ///< range of the next continuation byte: narrower after E0, ED, F0 and F4
  uint8_t highest_ = 0xBF;
};

}  // namespace perceiver
