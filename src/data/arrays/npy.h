// Reads untrusted integer arrays in NumPy's .npy format (versions 1.0 to 3.0), and writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace perceiver {

/// Longest header, bytes, and most dimensions that are accepted.
inline constexpr uint64_t npy_max_header = 65536;
inline constexpr size_t npy_max_dimensions = 8;

/// A view of an array; it must not outlive the bytes it was parsed from.
class NpyArray {
 public:
  /// Throws `user` "<source>: byte <offset>: …" for another format, a type other than boolean or an integer
  /// of 1 to 8 bytes, or a shape that does not match the size of the data.
  static NpyArray parse(std::span<const std::byte> file, const std::string& source);

  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t elements() const { return elements_; }
  /// Element i in row-major order, whichever order the file has. Throws for an unsigned value above
  /// INT64_MAX.
  int64_t at(int64_t i) const;
  /// Byte in the file where element i starts, for messages.
  uint64_t offset_of(int64_t i) const {
    return data_offset_ + static_cast<uint64_t>(stored_index(i)) * width_;
  }

 private:
  NpyArray() = default;
  int64_t stored_index(int64_t i) const;

  std::span<const std::byte> data_;
  std::string source_;
  std::vector<int64_t> shape_;
  int64_t elements_ = 0;
  size_t width_ = 1;
  bool is_signed_ = false;
  bool big_endian_ = false;
  bool column_major_ = false;
  uint64_t data_offset_ = 0;
};

/// The bytes of a .npy file with an i32 array; `values` must have as many elements as `shape`.
std::string write_npy(std::span<const int32_t> values, const std::vector<int64_t>& shape);

}  // namespace perceiver
