// The codes of 8-bit floating-point numbers, by plain arithmetic on the host.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/fp8.h"

namespace perceiver::kernels {

inline constexpr uint8_t kNotANumber = 0x7f;  // in both formats, with either sign

struct Fp8Layout {
  int mantissa_bits, bias;
};

constexpr Fp8Layout layout_of(Fp8Format format) {
  return format == Fp8Format::e4m3 ? Fp8Layout{3, 7} : Fp8Layout{2, 15};
}

/// Rounded to nearest even, clamped to the largest number; kNotANumber unless x is finite.
inline uint8_t encode_fp8(double x, Fp8Format format) {
  if (!std::isfinite(x)) return kNotANumber;
  const auto [bits, bias] = layout_of(format);
  const double magnitude = std::min<double>(std::abs(x), largest_of(format));
  const int sign = std::signbit(x) ? 0x80 : 0;
  if (magnitude == 0) return static_cast<uint8_t>(sign);
  const int exponent = std::max(std::ilogb(magnitude), 1 - bias);
  // Rounds half to even; a mantissa that overflows carries into the exponent, as it should.
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, bits - exponent)));
  return static_cast<uint8_t>(sign | (((exponent + bias - 1) << bits) + steps));
}

inline float decode_fp8(uint8_t code, Fp8Format format) {
  const auto [bits, bias] = layout_of(format);
  const int exponent = (code & 0x7f) >> bits, mantissa = code & ((1 << bits) - 1);
  const bool is_number = format == Fp8Format::e4m3 ? (code & 0x7f) != kNotANumber : exponent != 31;
  if (!is_number) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude =
      exponent == 0 ? std::ldexp(static_cast<float>(mantissa), 1 - bias - bits)
                    : std::ldexp(static_cast<float>((1 << bits) + mantissa), exponent - bias - bits);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

}  // namespace perceiver::kernels
