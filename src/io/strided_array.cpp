#include "io/strided_array.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "io/safetensors.h"
#include "io/tensor_source.h"

namespace perceiver {
namespace {

/// The number of elements, or -1 if it is no number of 64 bits.
int64_t count_elements(std::span<const int64_t> shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape)
    if (dimension < 0 || __builtin_mul_overflow(count, dimension, &count)) return -1;
  return count;
}

/// The index of the last element, of an array that has elements, or -1 if it is no number of 64 bits.
int64_t last_index(const StridedArray& array) {
  int64_t last = array.offset;
  for (size_t i = 0; i < array.shape.size(); ++i) {
    int64_t step = 0;
    if (__builtin_mul_overflow(array.shape[i] - 1, array.strides[i], &step)) return -1;
    if (__builtin_add_overflow(last, step, &last)) return -1;
  }
  return last;
}

bool any_negative(std::span<const int64_t> numbers) {
  return std::any_of(numbers.begin(), numbers.end(), [](int64_t number) { return number < 0; });
}

/// The next index, row-major, and the element's place in the storage.
void advance(const StridedArray& array, std::vector<int64_t>& index, int64_t& place) {
  for (size_t i = array.shape.size(); i-- > 0;) {
    if (array.shape[i] == 1) continue;  // its stride may be anything
    place += array.strides[i];
    if (++index[i] < array.shape[i]) return;
    place -= array.strides[i] * array.shape[i];
    index[i] = 0;
  }
}

}  // namespace

std::vector<int64_t> row_major_strides(std::span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size());
  if (count_elements(shape) <= 0) return strides;
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

std::vector<int64_t> column_major_strides(std::span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size());
  if (count_elements(shape) <= 0) return strides;
  int64_t step = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

StoredArray unreadable_array(std::string fault) {
  StoredArray array;
  array.fault = std::move(fault);
  return array;
}

std::string array_fault(const StridedArray& array, uint64_t storage_bytes) {
  if (array.shape.size() != array.strides.size())
    return fmt::format("has {} dimensions and {} strides", array.shape.size(), array.strides.size());
  if (array.shape.size() > safetensors_max_rank)
    return fmt::format("has {} dimensions, more than {}", array.shape.size(), safetensors_max_rank);
  const int64_t count = count_elements(array.shape);
  if (count < 0) return "has a shape that is no shape";
  if (array.offset < 0 || any_negative(array.strides)) return "has a negative offset or stride";
  if (count == 0) return "";
  const uint64_t stored = storage_bytes / safetensors_dtype_size(array.dtype);
  const int64_t last = last_index(array);
  if (last < 0 || static_cast<uint64_t>(last) >= stored)
    return fmt::format("reaches past the {} elements of its storage", stored);
  if (static_cast<uint64_t>(count) > stored && count > most_repeated_elements)
    return fmt::format("shows the {} elements of its storage {} times", stored, count);
  return "";
}

void read_elements(const StridedArray& array, std::span<const std::byte> storage, std::span<double> out) {
  const ElementReader value = element_reader(array.dtype);
  const int64_t size = static_cast<int64_t>(safetensors_dtype_size(array.dtype));
  std::vector<int64_t> index(array.shape.size(), 0);
  int64_t place = array.offset;
  for (double& element : out) {
    element = value(storage.data() + place * size);
    advance(array, index, place);
  }
}

}  // namespace perceiver
