// Constants of device code.
#pragma once

#include <numbers>

namespace perceiver::kernels::cuda {

inline constexpr float kLog2E = std::numbers::log2e_v<float>;
inline constexpr float kNormEpsilon = 1e-5f;  // of LayerNorm, and of the scale of projected rows

}  // namespace perceiver::kernels::cuda
