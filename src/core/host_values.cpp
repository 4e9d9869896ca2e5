#include "core/host_values.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace perceiver {
namespace {

float from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Rounds a double to bf16 once, to nearest, ties to even.
uint16_t to_bf16(double value) {
  float single = static_cast<float>(value);
  const double error = value - static_cast<double>(single);
  // The float may be halfway between two bf16 values when the double is not.
  if ((std::bit_cast<uint32_t>(single) & 0xFFFF) == 0x8000 && error != 0 && std::isfinite(single))
    single = std::nextafter(single, error > 0 ? INFINITY : -INFINITY);
  const uint32_t bits = std::bit_cast<uint32_t>(single);
  if (std::isnan(single)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

template <typename T>
void fill_with(const Tensor& tensor, const auto& value) {
  std::vector<T> host(static_cast<size_t>(tensor.elements()));
  for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<T>(value(static_cast<int64_t>(i)));
  tensor.copy_from_host(std::as_bytes(std::span<const T>(host)));
}

}  // namespace

std::vector<double> host_doubles(const Tensor& tensor) {
  if (tensor.dtype() == DType::f64) return tensor.to_host<double>();
  if (tensor.dtype() == DType::f32) {
    const std::vector<float> values = tensor.to_host<float>();
    return {values.begin(), values.end()};
  }
  PERCEIVER_ASSERT(tensor.dtype() == DType::bf16);
  const std::vector<uint16_t> bits = tensor.to_host<uint16_t>();
  std::vector<double> values(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) values[i] = static_cast<double>(from_bf16(bits[i]));
  return values;
}

void fill(const Tensor& tensor, const std::function<double(int64_t)>& value) {
  if (tensor.dtype() == DType::f64) return fill_with<double>(tensor, value);
  if (tensor.dtype() == DType::f32) return fill_with<float>(tensor, value);
  PERCEIVER_ASSERT(tensor.dtype() == DType::bf16);
  fill_with<uint16_t>(tensor, [&](int64_t i) { return to_bf16(value(i)); });
}

void round_to_bf16(WorkerPool& workers, const Tensor& values, const Tensor& rounded) {
  PERCEIVER_ASSERT(values.dtype() == DType::f32 && rounded.dtype() == DType::bf16 &&
                   values.device().kind == DeviceKind::cpu && values.elements() == rounded.elements());
  float* numbers = values.as<float>();
  uint16_t* bits = rounded.as<uint16_t>();
  constexpr int64_t kBlock = 1 << 16;
  const int64_t count = values.elements();
  workers.run((count + kBlock - 1) / kBlock, [&](int64_t block) {
    for (int64_t i = block * kBlock; i < std::min(count, (block + 1) * kBlock); ++i) {
      bits[i] = to_bf16(static_cast<double>(numbers[i]));
      numbers[i] = from_bf16(bits[i]);
    }
  });
}

}  // namespace perceiver
