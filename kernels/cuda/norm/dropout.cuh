// Dropout factors, bitwise those of kernels/cpu/dropout.h: one Philox counter per four elements.
#pragma once

#include "kernels/cuda/support/common.cuh"
#include "kernels/norm.h"
#include "perceiver/experimental/philox.h"

namespace perceiver::kernels::cuda {

/// A mask as one thread uses it. With a threshold of 0 it reads nothing and every factor is 1.
class DropoutFactors {
 public:
  __device__ explicit DropoutFactors(const DropoutMask& mask)
      : seed_(mask.seed),
        step_(mask.threshold > 0 ? *mask.step : 0),
        first_element_(mask.first_element),
        op_(mask.op),
        threshold_(mask.threshold),
        scale_(static_cast<float>(mask.scale)) {}

  /// factor[i] of element `element` + i of the tensor.
  template <int N>
  __device__ void get(int64_t element, float (&factor)[N]) const {
    if (threshold_ == 0) {
#pragma unroll
      for (int i = 0; i < N; ++i) factor[i] = 1;
      return;
    }
    const uint64_t first = static_cast<uint64_t>(first_element_ + element);
    const int shift = static_cast<int>(first % 4);
    if constexpr (N == 1) {
      const PhiloxBlock word = draw(first / 4);
      factor[0] = survives(shift == 0 ? word[0] : shift == 1 ? word[1] : shift == 2 ? word[2] : word[3]);
    } else {
      draw_many(first / 4, shift, factor);
    }
  }

 private:
  __device__ float survives(uint32_t word) const {
    return word >= threshold_ ? scale_ : 0.0f;
  }

  __device__ PhiloxBlock draw(uint64_t block) const {
    const uint32_t high = static_cast<uint32_t>((step_ >> 32) ^ (block >> 32)) ^
                          (static_cast<uint32_t>(RandomPurpose::dropout) << 24);
    return philox({static_cast<uint32_t>(block), static_cast<uint32_t>(step_), high, op_},
                  static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32));
  }

  /// Elements that do not start at a counter's first word need words of one more counter. Indices are
  /// compile-time constants, so that the words stay in registers.
  template <int N>
  __device__ void draw_many(uint64_t block, int shift, float (&factor)[N]) const {
    static_assert(N % 4 == 0);
    float drawn[N + 4];
#pragma unroll
    for (int b = 0; b < N / 4 + 1; ++b) {
      if (b == N / 4 && shift == 0) break;
      const PhiloxBlock word = draw(block + static_cast<uint64_t>(b));
#pragma unroll
      for (int i = 0; i < 4; ++i) drawn[4 * b + i] = survives(word[static_cast<size_t>(i)]);
    }
    if (shift == 0) {
#pragma unroll
      for (int i = 0; i < N; ++i) factor[i] = drawn[i];
      return;
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
      factor[i] = shift == 1 ? drawn[i + 1] : shift == 2 ? drawn[i + 2] : drawn[i + 3];
  }

  uint64_t seed_, step_;
  int64_t first_element_;
  uint32_t op_, threshold_;
  float scale_;
};

}  // namespace perceiver::kernels::cuda
