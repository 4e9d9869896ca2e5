// Weights of the fused decode step as they lie in the ring, and how those of eight bits become what tensor
// cores multiply: exactly, without their scales, which multiply the sums. For up to 4 slots that is f16
// (held_products.cuh): a conversion instruction of e4m3, a subtraction of integers. For more it is bf16,
// which takes two more steps from f16; moving bits takes as many instructions, for integers and e4m3 alike.
#pragma once

#include "kernels/cuda/decode/loads.cuh"
#include "kernels/cuda/support/bf16_pairs.cuh"
#include "kernels/dequantize.h"

namespace perceiver::kernels::cuda {

template <DType kWeights>
inline constexpr int kWeightBytes = is_narrow(kWeights) ? 1 : 2;

/// Bytes between the rows of a tile of weights. The padding lets the lanes of an access, four to a row, hit
/// different banks.
template <DType kWeights>
inline constexpr int kWeightPitch = is_narrow(kWeights) ? kTileColumns + 32 : kRowPitch;

/// The scales of weights of eight bits.
__device__ inline const float* narrow_scales(const DecodeLinear& linear, int rows, int columns) {
  return reinterpret_cast<const float*>(static_cast<const char*>(linear.weight) +
                                        narrow_scale_offset(rows, columns));
}

#ifdef PERCEIVER_DECODE_SM90

/// Two e4m3 codes, the lower 16 bits, as a pair of f16, exactly.
__device__ inline uint32_t half_pair(uint32_t codes) {
  uint32_t pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<uint16_t>(codes)));
  return pair;
}

/// 4 whole numbers of 8 bits as two pairs of f16, exactly: with the sign flipped they are the lower bits of
/// numbers from 1024 on.
__device__ inline uint2 halves_of_int8(uint32_t x) {
  constexpr uint32_t kExponents = 0x64646464, kZero = 0x64806480;  // 1024 + 128, twice
  const auto less_zero = [](uint32_t pair) {
    uint32_t halves;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(halves) : "r"(pair), "r"(kZero));
    return halves;
  };
  x ^= 0x80808080u;
  return {less_zero(__byte_perm(x, kExponents, 0x4140)), less_zero(__byte_perm(x, kExponents, 0x4342))};
}

/// Sign, exponent and mantissa move to where bf16 has them, whose exponents are 120 less; subnormal numbers
/// become those of bf16.
__device__ inline uint2 widen_e4m3(uint32_t codes) {
  constexpr uint32_t kFactor = 0x7b807b80;  // 2^120, twice
  const uint32_t high = (codes & 0x80808080u) | (codes >> 4 & 0x07070707u), low = codes << 4 & 0xf0f0f0f0u;
  return {multiply_pairs(__byte_perm(low, high, 0x5140), kFactor),
          multiply_pairs(__byte_perm(low, high, 0x7362), kFactor)};
}

/// x = (128 + the lower bits) - (128 or, of negative numbers, 256).
__device__ inline uint2 widen_int8(uint32_t x) {
  constexpr uint32_t kExponents = 0x43434343;  // of bf16 numbers from 128 on
  const uint32_t low = x & 0x7f7f7f7fu, sign = x & 0x80808080u;
  return {subtract_pairs(__byte_perm(low, kExponents, 0x4140), __byte_perm(sign, kExponents, 0x4140)),
          subtract_pairs(__byte_perm(low, kExponents, 0x4342), __byte_perm(sign, kExponents, 0x4342))};
}

/// The address of a lane's weights of column 0 of a tile in the ring.
template <DType kWeights>
__device__ __forceinline__ uint32_t lane_weights(uint32_t ring, int stage, int lane) {
  return ring + static_cast<uint32_t>(stage * kStageBytes + lane / 4 * kWeightPitch<kWeights> +
                                      lane % 4 * 8 * kWeightBytes<kWeights>);
}

/// A lane's 8 neighbouring weights of each of kCount blocks of 32 columns, as `read` takes them from an
/// address in shared memory; zeros for blocks that start at or past `columns`, unless the tile is a whole
/// one. `row`: where the lane's weights of block 0 are.
template <DType kWeights, bool kWhole = false, typename Block, int kCount, typename Read>
__device__ __forceinline__ void load_blocks(uint32_t row, int first_block, int step, int columns,
                                            Block (&w)[kCount], Read&& read) {
#pragma unroll
  for (int b = 0; b < kCount; ++b) {
    const int column = (first_block + b * step) * 32;
    w[b] = {};
    if (kWhole || column < columns) w[b] = read(row + static_cast<uint32_t>(column * kWeightBytes<kWeights>));
  }
}

/// The same as bf16.
template <DType kWeights, int kCount>
__device__ __forceinline__ void load_weights(uint32_t row, int first_block, int step, int columns,
                                             uint4 (&w)[kCount]) {
  if constexpr (kWeights == DType::bf16) {
    load_blocks<kWeights>(row, first_block, step, columns, w, load_shared);
  } else {
    uint2 packed[kCount];
    load_blocks<kWeights>(row, first_block, step, columns, packed, load_shared_pair);
    constexpr auto widen = kWeights == DType::e4m3 ? widen_e4m3 : widen_int8;
#pragma unroll
    for (int b = 0; b < kCount; ++b) {
      const uint2 low = widen(packed[b].x), high = widen(packed[b].y);
      w[b] = {low.x, low.y, high.x, high.y};
    }
  }
}

#endif
}  // namespace perceiver::kernels::cuda
