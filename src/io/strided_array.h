// An array whose elements lie in a storage at regular steps, as torch and NumPy describe theirs: several
// arrays may share a storage, as views of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace perceiver {

/// Element (i, j, …) is element offset + i · strides[0] + j · strides[1] + … of the storage.
struct StridedArray {
  std::string dtype;  ///< as in safetensors
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  ///< in elements; as many as dimensions
  int64_t offset = 0;            ///< in elements
};

/// Strides of an array without gaps whose last index is the fastest (row-major), or whose first is
/// (column-major, Fortran). Zero for an array without elements and for a shape that is none.
std::vector<int64_t> row_major_strides(std::span<const int64_t> shape);
std::vector<int64_t> column_major_strides(std::span<const int64_t> shape);

struct ZipEntry;

/// An array and where its storage lies: in memory, or in a compressed entry of an archive.
struct StoredArray {
  StridedArray layout;
  uint64_t storage_bytes = 0;
  std::span<const std::byte> storage;  ///< unless `entry` is set
  const ZipEntry* entry = nullptr;
  std::string fault;  ///< why it cannot be read; empty if it can
};

/// An array that cannot be read, and why.
StoredArray unreadable_array(std::string fault);

/// Most elements of an array that shows elements of its storage several times (of torch's expand).
constexpr int64_t most_repeated_elements = int64_t{1} << 24;

/// Why no such array can lie in a storage of `storage_bytes`: "reaches 12 bytes past the end …"; empty if it
/// can. The dtype is known.
std::string array_fault(const StridedArray& array, uint64_t storage_bytes);

/// Writes the elements, row-major; array_fault is empty and is_float_dtype holds.
void read_elements(const StridedArray& array, std::span<const std::byte> storage, std::span<double> out);

}  // namespace perceiver
