#include "io/tensor_source.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/text.h"
#include "io/safetensors.h"

namespace perceiver {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are little-endian and used in place");

template <typename T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

template <typename T>
double number(const std::byte* bytes) {
  return load<T>(bytes);
}

double bfloat16(const std::byte* bytes) {
  return std::bit_cast<float>(uint32_t{load<uint16_t>(bytes)} << 16);
}

/// IEEE 754 binary16: a sign, 5 bits of exponent, 10 of fraction.
double float16(const std::byte* bytes) {
  const uint16_t bits = load<uint16_t>(bytes);
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  double value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
  return (bits & 0x8000) != 0 ? -value : value;
}

struct FloatDtype {
  std::string_view name;
  ElementReader reader;
};

constexpr FloatDtype float_dtypes[] = {
    {"F64", number<double>}, {"F32", number<float>}, {"F16", float16}, {"BF16", bfloat16}};

const FloatDtype* find_float_dtype(std::string_view name) {
  for (const FloatDtype& dtype : float_dtypes)
    if (dtype.name == name) return &dtype;
  return nullptr;
}

}  // namespace

int64_t SourceTensor::elements() const {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

bool is_float_dtype(std::string_view dtype) {
  return find_float_dtype(dtype) != nullptr;
}

ElementReader element_reader(std::string_view dtype) {
  const FloatDtype* found = find_float_dtype(dtype);
  PERCEIVER_ASSERT(found != nullptr);
  return found->reader;
}

std::vector<double> TensorSource::values(const SourceTensor& tensor) const {
  std::vector<double> result(static_cast<size_t>(tensor.elements()));
  read(tensor, result);
  return result;
}

const SourceTensor* TensorSource::find(std::string_view name) const {
  const auto found = std::find_if(tensors().begin(), tensors().end(),
                                  [&](const SourceTensor& tensor) { return tensor.name == name; });
  return found == tensors().end() ? nullptr : &*found;
}

SafetensorsSource::SafetensorsSource(const SafetensorsFile& file) : file_(file) {
  for (const SafetensorsEntry& entry : file.entries())
    tensors_.push_back({entry.name, entry.dtype, entry.shape});
}

const std::string& SafetensorsSource::source() const {
  return file_.source();
}

void SafetensorsSource::read(const SourceTensor& tensor, std::span<double> out) const {
  const SafetensorsEntry* entry = file_.find(tensor.name);
  PERCEIVER_ASSERT(entry != nullptr);
  if (!is_float_dtype(entry->dtype))
    throw_user("{}: tensor {} has the type {}, where floating-point numbers are expected", source(),
               quote(entry->name), entry->dtype);
  const std::span<const std::byte> bytes = file_.bytes(*entry);
  const size_t size = safetensors_dtype_size(entry->dtype);
  PERCEIVER_ASSERT(out.size() == bytes.size() / size);
  const ElementReader value = element_reader(entry->dtype);
  for (size_t i = 0; i < out.size(); ++i) out[i] = value(bytes.data() + i * size);
}

}  // namespace perceiver
