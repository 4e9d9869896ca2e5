// Weights of eight bits times the scales of their rows.
#include "kernels/dequantize.h"

#include <array>

#include "base/check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/fp8_codes.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr int64_t kTaskElements = 1 << 14;

/// The number that each byte stands for.
std::array<float, 256> numbers_of(DType type) {
  std::array<float, 256> numbers;
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    numbers[byte] =
        type == DType::i8 ? static_cast<float>(static_cast<int8_t>(byte)) : decode_fp8(byte, Fp8Format::e4m3);
  }
  return numbers;
}

template <typename T>
void dequantize_rows(const Dequantize& k) {
  const std::array<float, 256> numbers = numbers_of(k.weight_type);
  const auto* const weight = static_cast<const uint8_t*>(k.weight);
  T* const out = static_cast<T*>(k.out);
  parallel_for(k.rows, 1 + kTaskElements / std::max<int64_t>(1, k.columns), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float scale = static_cast<const float*>(k.scale)[row];
      for (int64_t i = row * k.columns; i < (row + 1) * k.columns; ++i)
        out[i] = static_cast<T>(scale * numbers[weight[i]]);
    }
  });
}

}  // namespace

void dequantize(const Dequantize& k) {
  PERCEIVER_ASSERT(is_narrow(k.weight_type));
  with_type(k.type, [&]<typename T>() { dequantize_rows<T>(k); });
}

}  // namespace perceiver::kernels::cpu
