#include "data/text/utf8_stream.h"

#include <utility>

namespace perceiver {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";

}  // namespace

std::string Utf8Stream::put(uint8_t byte) {
  std::string out;
  take(byte, out);
  return out;
}

std::string Utf8Stream::put(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) take(static_cast<uint8_t>(c), out);
  return out;
}

std::string Utf8Stream::flush() {
  if (missing_ == 0) return {};
  missing_ = 0;
  pending_.clear();
  return std::string(replacement);
}

void Utf8Stream::take(uint8_t byte, std::string& out) {
  if (missing_ == 0) return start(byte, out);
  if (byte < lowest_ || byte > highest_) {
    out += replacement;
    pending_.clear();
    missing_ = 0;
    return start(byte, out);
  }
  pending_.push_back(static_cast<char>(byte));
  lowest_ = 0x80, highest_ = 0xBF;
  if (--missing_ == 0) out += std::exchange(pending_, {});
}

/// The well-formed sequences of Unicode's table 3-7, by first byte.
void Utf8Stream::start(uint8_t byte, std::string& out) {
  if (byte < 0x80) {
    out.push_back(static_cast<char>(byte));
    return;
  }
  if (byte < 0xC2 || byte > 0xF4) {
    out += replacement;
    return;
  }
  missing_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  lowest_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  highest_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  pending_.assign(1, static_cast<char>(byte));
}

}  // namespace perceiver
