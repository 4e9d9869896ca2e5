#include "core/bf16.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/worker_pool.h"

namespace perceiver {

float from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

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
