// Mu-law companding to 8 bits (mu = 255): van den Oord et al. 2016, section 2.2.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace perceiver {

inline constexpr int mu_law_levels = 256;

/// The level, 0 … 255, of a sample in −1 … 1: sign(x) ln(1 + 255 |x|) / ln 256, rounded to one of 256 equal
/// steps. Silence is level 128.
inline int32_t mu_law_encode(float sample) {
  const double x = std::clamp<double>(sample, -1, 1);
  const double companded = std::copysign(std::log1p(255 * std::abs(x)) / std::log(256.0), x);
  return static_cast<int32_t>(std::floor((companded + 1) / 2 * 255 + 0.5));
}

/// The sample in the middle of a level; encodes to that level.
inline float mu_law_decode(int32_t level) {
  const double companded = 2.0 * level / 255 - 1;
  return static_cast<float>(
      std::copysign(std::expm1(std::abs(companded) * std::log(256.0)) / 255, companded));
}

}  // namespace perceiver
