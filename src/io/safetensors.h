// Reader and writer of the safetensors format (https://github.com/huggingface/safetensors, format
// description): 8 bytes of little-endian header length, a JSON header, then the bytes of the tensors without
// gaps. Independent of any tensor class.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_view.h"

namespace perceiver {

class OutputFile;

/// Longest header accepted, bytes.
constexpr uint64_t safetensors_max_header = 100ull << 20;
/// Maximum number of dimensions of a tensor.
constexpr size_t safetensors_max_rank = 64;

/// Bytes per element: F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL; 0 for any other
/// dtype.
size_t safetensors_dtype_size(std::string_view dtype);

/// Metadata key of the XXH3-64 checksum of a file's content: its other metadata, and the names, dtypes,
/// shapes and bytes of its tensors. It does not depend on the order of tensors or the layout of the header,
/// so a program that rewrites the file without changing anything leaves it valid.
inline constexpr const char* safetensors_checksum_key = "checksum";

/// One tensor in a file. A scalar has an empty shape; a dimension may be 0.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;           ///< as in the file, e.g. "F32"
  std::vector<int64_t> shape;  ///< row-major
  uint64_t begin = 0;          ///< first byte, counted from the end of the header
  uint64_t end = 0;            ///< one past the last byte
};

/// A safetensors file mapped into memory. Its header has been checked: known dtypes, unique names, shapes
/// that match their bytes, tensors that cover the data without gaps. Anything else is a `user` error that
/// names the file, the byte offset and the tensor.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);
  /// Parses a file in memory, which must outlive the object; `source` names it in errors.
  static SafetensorsFile parse(std::span<const std::byte> file, const std::string& source);

  /// The header's `__metadata__`.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// The metadata for that key, or nullptr.
  const std::string* find_metadata(const std::string& key) const;
  /// In the order of their offsets.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  /// The tensor with that name, or nullptr.
  const SafetensorsEntry* find(std::string_view name) const;
  /// The bytes of a tensor, valid as long as this object. Other writers may not align them to the element
  /// size: copy them rather than casting.
  std::span<const std::byte> bytes(const SafetensorsEntry& entry) const;
  /// The name of the file in errors.
  const std::string& source() const { return source_; }

  /// Whether the file has a checksum of its content, as those of SafetensorsWriter do.
  bool has_checksum() const { return find_metadata(safetensors_checksum_key) != nullptr; }
  /// Reads the whole file. Throws `user` if it has a checksum and its content is another.
  void verify() const;

 private:
  SafetensorsFile() = default;
  void read(std::span<const std::byte> file);

  FileView mapping_;
  std::string source_;
  std::span<const std::byte> data_;
  std::map<std::string, std::string> metadata_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
};

/// Collects tensors and writes them as one file with a checksum of its content. The bytes of the tensors are
/// not copied: they must stay valid until write() returns. Tensors are ordered by decreasing element size,
/// which aligns each to its element size.
class SafetensorsWriter {
 public:
  /// `key` and `value` are UTF-8; a second value replaces the first.
  void set_metadata(const std::string& key, std::string value) { metadata_[key] = std::move(value); }
  /// Throws a `failure` if the name is taken, the dtype is unknown or the size of `bytes` does not match the
  /// shape.
  void add(std::string name, std::string dtype, std::vector<int64_t> shape, std::span<const std::byte> bytes);
  /// Streams the file and returns the XXH3-64 checksum of all its bytes. `file` must still be empty; the
  /// caller finishes it.
  uint64_t write(OutputFile& file) const;
  /// The whole file in memory.
  std::string file() const;
  /// Writes the file under a temporary name, then renames it; returns its checksum.
  uint64_t write_atomically(const std::filesystem::path& path) const;

 private:
  struct Tensor {
    SafetensorsEntry entry;
    std::span<const std::byte> bytes;
  };
  std::vector<const Tensor*> order() const;
  std::string header(const std::vector<const Tensor*>& order) const;
  std::string content_checksum() const;

  std::map<std::string, std::string> metadata_;
  std::vector<Tensor> tensors_;
  std::set<std::string> names_;
};

/// Bytes of a tensor, or -1 if the product overflows, a dimension is negative or the dtype is unknown.
int64_t safetensors_byte_count(std::string_view dtype, std::span<const int64_t> shape);

}  // namespace perceiver
