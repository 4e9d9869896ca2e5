#include "base/utf8.h"

namespace perceiver {

bool Utf8State::accepts(uint8_t byte) const {
  if (missing_ == 0) return byte < 0x80 || (byte >= 0xC2 && byte <= 0xF4);
  return byte >= lowest_ && byte <= highest_;
}

bool Utf8State::put(uint8_t byte) {
  if (!accepts(byte)) return false;
  if (missing_ > 0) {
    --missing_;
    lowest_ = 0x80, highest_ = 0xBF;
  } else if (byte >= 0x80) {
    missing_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    lowest_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
    highest_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  }
  return true;
}

}  // namespace perceiver
