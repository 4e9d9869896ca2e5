// Reads the bytes of a MIDI file, or of a part of it, one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/check.h"

namespace perceiver {

/// Reading beyond the end gives zeros and sets `cut`: a track may be cut short anywhere, and one check after
/// an event is simpler than one before each byte. `bytes` and `source` must outlive the cursor.
class MidiCursor {
 public:
  MidiCursor(std::span<const uint8_t> bytes, const std::string& source)
      : bytes_(bytes), last_(bytes.size()), source_(&source) {}

  size_t offset() const { return next_; }  ///< in the whole file
  size_t left() const { return last_ - next_; }
  bool cut() const { return cut_; }

  /// Throws `user` with the source and the offset.
  template <typename... Args>
  [[noreturn]] void fail_at(size_t offset, fmt::format_string<Args...> format, Args&&... args) const {
    throw_user("{}: offset {}: {}", *source_, offset, fmt::format(format, std::forward<Args>(args)...));
  }

  uint8_t byte() {
    if (left() > 0) return bytes_[next_++];
    cut_ = true;
    return 0;
  }
  uint8_t peek() const { return left() > 0 ? bytes_[next_] : 0; }

  uint32_t big_endian(int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; ++i) value = value << 8 | byte();
    return value;
  }
  uint32_t little_endian(int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; ++i) value |= static_cast<uint32_t>(byte()) << (8 * i);
    return value;
  }

  /// A variable-length quantity: seven bits per byte, highest first. Files may have at most four bytes; more
  /// are read as long as the value fits 32 bits.
  uint64_t variable() {
    const size_t first = next_;
    uint64_t value = 0;
    while (true) {
      const uint8_t b = byte();
      value = value << 7 | (b & 0x7Fu);
      if (value > UINT32_MAX) fail_at(first, "a number of more than 32 bits");
      if (b < 0x80) return value;
    }
  }

  /// `what` names the byte in messages.
  uint8_t data_byte(const char* what) {
    const uint8_t b = byte();
    if (b >= 0x80) fail_at(next_ - 1, "{} is 0x{:02X}; data bytes are below 0x80", what, b);
    return b;
  }

  /// The four letters of a chunk's name; at least four bytes must be left.
  std::string_view word() {
    PERCEIVER_ASSERT(left() >= 4);
    next_ += 4;
    return {reinterpret_cast<const char*>(bytes_.data()) + next_ - 4, 4};
  }

  /// A cursor over the next `length` bytes, or what is left of them; this one skips them.
  MidiCursor part(uint64_t length) {
    if (length > left()) cut_ = true;
    MidiCursor inner = *this;
    next_ += static_cast<size_t>(std::min<uint64_t>(length, left()));
    inner.last_ = next_;
    inner.cut_ = false;
    return inner;
  }

  /// Moves to `offset`, which is not beyond the end.
  void move_to(size_t offset) {
    PERCEIVER_ASSERT(offset <= last_);
    next_ = offset;
  }

  /// The offset of the next `word` from `offset` on, or the end.
  size_t find(std::string_view word, size_t offset) const {
    const auto end = bytes_.begin() + static_cast<std::ptrdiff_t>(last_);
    const auto begin = bytes_.begin() + static_cast<std::ptrdiff_t>(std::min(offset, last_));
    return static_cast<size_t>(std::search(begin, end, word.begin(), word.end()) - bytes_.begin());
  }

 private:
  std::span<const uint8_t> bytes_;
  size_t next_ = 0;
  size_t last_;
  bool cut_ = false;
  const std::string* source_;
};

}  // namespace perceiver
