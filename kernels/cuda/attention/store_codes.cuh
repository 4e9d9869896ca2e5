// How attention's kernels leave results in 8 bits (fp8_quantize), row-major and transposed.
#pragma once

#include "kernels/cuda/fp8/codes.cuh"
#include "kernels/cuda/hopper/primitives.cuh"
#include "kernels/cuda/support/shared_access.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/fp8.h"

namespace perceiver::kernels::cuda::hopper {

/// The columns of a matrix in 8 bits that are one head's, in as many rows as a warp has.
struct HeadCodes {
  uint8_t* out;         // their first element
  int64_t columns;      // of the matrix
  uint8_t* transposed;  // the same, [columns, rows]; null: not wanted
  int64_t rows;
  float* sums;  // [64], of the columns before quantisation; null: not wanted
};

/// Of the matrix that `quantize` describes: the head from `column` on, 16 rows from `row` on, whose sums are
/// one row of `parts` [rows / 16, columns] (null: not wanted).
__device__ inline HeadCodes head_codes(const Fp8Quantize& quantize, int64_t row, int64_t column,
                                       float* parts) {
  auto* const transposed = static_cast<uint8_t*>(quantize.transposed);
  return {static_cast<uint8_t*>(quantize.out) + row * quantize.columns + column, quantize.columns,
          transposed != nullptr ? transposed + column * quantize.rows + row : nullptr, quantize.rows,
          parts != nullptr ? parts + row / 16 * quantize.columns + column : nullptr};
}

/// The transposed copy of a warp's rows, by way of the [64 columns][16 bytes] from `words` on: a lane has
/// those from `first` on, and the columns of `vector`. Words are permuted, so that neither access has bank
/// conflicts.
__device__ inline void store_transposed(const Codes& rows, uint32_t words, int first, int vector,
                                        const HeadCodes& codes) {
  constexpr int kVector = 8, kColumnBytes = 16;
  const auto place_of = [words](int column) {
    const int of = column / kVector;
    return words + static_cast<uint32_t>((of * kVector + ((column % kVector) ^ of)) * kColumnBytes);
  };
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    store_shared(place_of(vector * kVector + i) + static_cast<uint32_t>(first), transposed_word(rows, i));
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int column = half * 32 + static_cast<int>(threadIdx.x) % 32;
    *reinterpret_cast<uint4*>(codes.transposed + column * codes.rows) = load_shared(place_of(column));
  }
}

/// What a warp needs for its codes, in shared memory: the main loops have no registers to keep it, and global
/// memory is far.
struct WarpScale {
  float scale, largest;

  /// Before the first codes, once what `quantize` points to is complete.
  __device__ void begin(const Fp8Quantize& quantize) {
    if (threadIdx.x % 32 == 0) *this = {*quantize.scale, 0};
    __syncwarp();
  }
  __device__ void follow(float most) {
    most = warp_max(most);
    if (threadIdx.x % 32 == 0) largest = fmaxf(largest, most);
  }
  /// After the last ones.
  __device__ void end(const Fp8Quantize& quantize) const {
    if (threadIdx.x % 32 == 0) raise(quantize.largest, largest);
  }
};

/// What a lane has of a warp's 16 rows: 8 columns of 4 successive rows.
struct LaneCodes {
  Codes codes;
  float largest = 0, sums[8] = {};  // of what is quantised

  template <__nv_fp8_interpretation_t kFormat, bool kSums>
  __device__ void add(int row, const uint4& packed, float scale) {
    const uint32_t pairs[] = {packed.x, packed.y, packed.z, packed.w};
    float y[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = unpack(pairs[i]);
      y[2 * i] = two.x;
      y[2 * i + 1] = two.y;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if constexpr (kSums) sums[i] += y[i];
      largest = fmaxf(largest, fabsf(y[i]));
    }
    codes[row][0] = encode<kFormat>(y, scale);
    codes[row][1] = encode<kFormat>(y + 4, scale);
  }

  /// The sums of the warp's rows, to target [64].
  __device__ void store_sums(float* target) {
#pragma unroll
    for (float& sum : sums) {
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 8);
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 16);
    }
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane < 8) store(target + lane * 8, sums);
  }
};

/// As store_rows, for heads of 64 channels, but writes what is rounded in 8 bits, with the sums of columns;
/// with kKeepsRows without these, but in bf16 as well, to `target`. The transposed copy takes the place of
/// the rows in shared memory.
template <__nv_fp8_interpretation_t kFormat, bool kKeepsRows>
__device__ inline void store_codes(const float (&c)[32], float factor0, float factor1, unsigned char* tile,
                                   int row, const HeadCodes& codes, WarpScale& warp,
                                   __nv_bfloat16* target = nullptr, int64_t stride = 0) {
  constexpr int kLaneRows = 4;
  constexpr bool kSums = !kKeepsRows;
  const int lane = static_cast<int>(threadIdx.x) % 32, vector = lane % 8, first = lane / 8 * kLaneRows;
  stage_rows<64>(c, factor0, factor1, tile, 0, row);
  const uint32_t shared_tile = shared_address(tile);
  const float scale = warp.scale;
  LaneCodes own;
#pragma unroll
  for (int r = 0; r < kLaneRows; ++r) {
    const uint4 packed = load_shared(
        shared_tile + swizzled_offset(static_cast<uint32_t>(row + first + r), static_cast<uint32_t>(vector)));
    own.add<kFormat, kSums>(r, packed, scale);
    *reinterpret_cast<uint2*>(codes.out + (first + r) * codes.columns + vector * 8) = {own.codes[r][0],
                                                                                       own.codes[r][1]};
    if constexpr (kKeepsRows) *reinterpret_cast<uint4*>(target + (first + r) * stride + vector * 8) = packed;
  }
  __syncwarp();
  if (codes.transposed != nullptr)
    store_transposed(own.codes, shared_tile + static_cast<uint32_t>(row) * kRowBytes, first, vector, codes);
  warp.follow(own.largest);
  if constexpr (kSums)
    if (codes.sums != nullptr) own.store_sums(codes.sums);
}

}  // namespace perceiver::kernels::cuda::hopper
