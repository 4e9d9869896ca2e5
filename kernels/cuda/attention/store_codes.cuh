// How attention's kernels leave results in 8 bits (fp8_quantize), row-major and transposed.
//
// Of a warpgroup's 64 rows and the 64 channels of a head a lane takes 8 columns of 4 successive rows. It
// packs the 4 rows of a column into a word in shared memory, from where each column's 64 rows leave in 4
// accesses of neighbouring lanes; so do the sums of its columns. Two buffers alternate, so that one barrier
// is enough: what a buffer had was read before the barrier of the other. Shared memory: 21 KiB, behind that
// of the kernel without codes.
#pragma once

#include "kernels/cuda/fp8/codes.cuh"
#include "kernels/cuda/hopper/primitives.cuh"
#include "kernels/cuda/hopper/roles.cuh"
#include "kernels/cuda/support/shared_access.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/fp8.h"

namespace perceiver::kernels::cuda::hopper {

inline constexpr int kCodeRows = 64;  // of a warpgroup, and of a part of the sums of columns

/// A warpgroup's codes, in shared memory: the main loops have no registers to keep anything of it.
struct GroupCodes {
  alignas(512) uint32_t words[2][64 * 16];  // [64 columns][64 rows], by place_of()
  float sums[2][4][64];                     // of each warp
  struct {
    float scale, largest;
    int buffer;
  } warps[4];
};

struct CodesMemory {
  GroupCodes groups[2];

  __device__ GroupCodes& own() { return groups[consumer_warp() / 4]; }
};

/// Behind a kernel's layout of `bytes`.
constexpr uint32_t codes_place(uint32_t bytes) {
  constexpr uint32_t kAlignment = alignof(CodesMemory);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// Of a kernel whose layout takes `bytes`.
template <bool kCodes>
constexpr uint32_t shared_bytes(uint32_t bytes) {
  return kCodes ? codes_place(bytes) + static_cast<uint32_t>(sizeof(CodesMemory)) : bytes;
}

/// Where a warpgroup's rows of a head are in a matrix, of which `rows_left` follow, a multiple of 16.
struct HeadPlace {
  int64_t row, column;
  int rows_left;
  int64_t part;  // of the sums of columns
};

/// Before the first codes, once what `quantize` points to is complete.
__device__ inline void begin_codes(GroupCodes& own, const Fp8Quantize& quantize) {
  if (lane() == 0) own.warps[consumer_warp() % 4] = {*quantize.scale, 0, 0};
  __syncwarp();
}

/// After the last ones.
__device__ inline void end_codes(const GroupCodes& own, const Fp8Quantize& quantize) {
  if (lane() == 0) raise(quantize.largest, own.warps[consumer_warp() % 4].largest);
}

/// The byte of a buffer of words where 16 rows of a column are. Of the lanes that write words together, those
/// of each vector and of 4 rows, all have other banks; those that read together read in order.
__device__ inline uint32_t place_of(int column, int chunk) {
  const int vector = column / 8;
  const int slot = vector * 8 + ((column % 8) ^ (vector % 2));
  return static_cast<uint32_t>(slot * 64 + ((chunk ^ (vector / 2)) * 16));
}

/// What a lane has of its warp's 16 rows.
struct LaneCodes {
  Codes codes = {};
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
    if (lane() < 8) store(target + lane() * 8, sums);
  }

  __device__ void store_words(uint32_t words, int warp) const {
    words += place_of(lane() % 8 * 8, warp) + static_cast<uint32_t>(lane() / 8 * 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) store_shared(words ^ i * 64, transposed_word(codes, i));
  }
};

/// The transposed copy of what the warpgroup left in `words`.
__device__ inline void store_transposed(const Fp8Quantize& quantize, const HeadPlace& at, uint32_t words) {
  auto* const target = static_cast<uint8_t*>(quantize.transposed) + at.column * quantize.rows + at.row;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int item = static_cast<int>(threadIdx.x) % kWarpgroup + k * kWarpgroup;
    const int column = item / 4, chunk = item % 4;
    if (chunk * 16 < at.rows_left)
      *reinterpret_cast<uint4*>(target + column * quantize.rows + chunk * 16) =
          load_shared(words + place_of(column, chunk));
  }
}

/// The sums of the warpgroup's rows, of those of its warps.
__device__ inline void store_group_sums(const float (&sums)[4][64], float* target) {
  const int column = static_cast<int>(threadIdx.x) % kWarpgroup;
  if (column < 64) target[column] = sums[0][column] + sums[1][column] + sums[2][column] + sums[3][column];
}

/// As store_rows of a warpgroup, for heads of 64 channels, but writes what is rounded in 8 bits, with the
/// sums of columns as a row of `parts` [parts, columns] (null: not wanted); with kKeepsRows without these,
/// but in bf16 as well, to `target`. `tile_row`: the warpgroup's first row within the tile. Uses the named
/// barrier `barrier`.
template <__nv_fp8_interpretation_t kFormat, bool kKeepsRows>
__device__ inline void store_codes(const float (&c)[32], float factor0, float factor1, unsigned char* tile,
                                   int tile_row, GroupCodes& own, int barrier, const Fp8Quantize& quantize,
                                   const HeadPlace& at, float* parts, __nv_bfloat16* target = nullptr,
                                   int64_t stride = 0) {
  const int warp = consumer_warp() % 4, first = warp * 16 + lane() / 8 * 4, vector = lane() % 8;
  stage_rows<64>(c, factor0, factor1, tile, 0, tile_row + warp * 16);
  const int buffer = own.warps[warp].buffer;
  const uint32_t words = shared_address(own.words[buffer]);
  LaneCodes codes;
  if (warp * 16 < at.rows_left) {
    const float scale = own.warps[warp].scale;
    uint8_t* out =
        static_cast<uint8_t*>(quantize.out) + (at.row + first) * quantize.columns + at.column + vector * 8;
    if constexpr (kKeepsRows) target += first * stride + vector * 8;
    // Of the row r places later: `first` is a multiple of 4.
    const uint32_t place = shared_address(tile) + swizzled_offset(static_cast<uint32_t>(tile_row + first),
                                                                  static_cast<uint32_t>(vector));
#pragma unroll
    for (int r = 0; r < 4; ++r, out += quantize.columns) {
      const uint4 packed = load_shared((place ^ r * 16) + r * kRowBytes);
      codes.add<kFormat, !kKeepsRows>(r, packed, scale);
      *reinterpret_cast<uint2*>(out) = {codes.codes[r][0], codes.codes[r][1]};
      if constexpr (kKeepsRows) {
        *reinterpret_cast<uint4*>(target) = packed;
        target += stride;
      }
    }
  }
  if (quantize.transposed != nullptr) codes.store_words(words, warp);
  if constexpr (!kKeepsRows)
    if (parts != nullptr) codes.store_sums(own.sums[buffer][warp]);
  const float largest = warp_max(codes.largest);
  named_barrier_sync(barrier);
  if (quantize.transposed != nullptr) store_transposed(quantize, at, words);
  if constexpr (!kKeepsRows)
    if (parts != nullptr && at.rows_left > 0)
      store_group_sums(own.sums[buffer], parts + at.part * quantize.columns + at.column);
  if (lane() == 0) {
    own.warps[warp].largest = fmaxf(own.warps[warp].largest, largest);
    own.warps[warp].buffer = 1 - buffer;
  }
}

}  // namespace perceiver::kernels::cuda::hopper
