// The tensor cores' operands of attention by head (head_attention.cuh): 16 rows by 64 channels of keys as A
// and of values as B, from a tile in shared memory. Numbers that are multiplied by them, queries and softmax
// weights, are split into upper bits and a remainder of the same type.
//
// - bf16: rows of 128 bytes, whose 16-byte chunks TMA swizzles by an exclusive or with bits 7 to 9 of the
//   address. Stages are aligned to less than 1024 bytes, hence the address and not the row.
// - e4m3: rows of 64 bytes, likewise by bits 7 and 8, multiplied as f16. A register of ldmatrix has 4
//   neighbouring channels of a row, or 2 of two rows, so that products take channels in another order: a
//   lane's k of block i are channels 16 i + 4 (lane % 4) to 3 more; column n of B is channel 2 n of 16, then
//   2 n + 1.
#pragma once

#include "kernels/cuda/decode/cache_part.cuh"
#include "kernels/cuda/decode/held_products.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

struct HeadFragments {
  uint32_t keys[4][4], values[4][4];
};

/// Two 16-bit numbers with what they leave of two floats.
struct SplitPair {
  uint32_t upper, remainder;
};

/// Of the two rows from `row` on, as halves of a register, those below `rows`.
__device__ inline uint32_t row_mask(int row, int rows) {
  return (row < rows ? 0xFFFFu : 0u) | (row + 1 < rows ? 0xFFFF0000u : 0u);
}

template <DType kCache>
struct HeadPart;

template <>
struct HeadPart<DType::bf16> {
  static constexpr int kKeyBytes = head_key_bytes(2), kRowBytes = kKeyBytes / kHeadTileRows;

  /// The 16 rows from `place` on. Values of rows that do not exist become 0, since the memory there may hold
  /// NaNs.
  __device__ __forceinline__ static HeadFragments load(uint32_t place, int lane, int rows) {
    HeadFragments f;
    const uint32_t row = place + static_cast<uint32_t>(lane % 16 * kRowBytes);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t chunk = chunk_offset(row, static_cast<uint32_t>(2 * i + lane / 16));
      load_matrices(f.keys[i], row + chunk);
      load_matrices_transposed(f.values[i], row + kKeyBytes + chunk);
    }
    if (rows == kHeadRows) return f;
    const uint32_t low = row_mask(lane % 4 * 2, rows), high = row_mask(lane % 4 * 2 + 8, rows);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      f.values[i][0] &= low, f.values[i][1] &= high, f.values[i][2] &= low, f.values[i][3] &= high;
    return f;
  }

  /// Which pair of the query's channels belongs to register i of B.
  __device__ static int query_pair(int i, int lane) {
    return i * 4 + lane % 4;
  }

  /// Channels 8 * piece to 8 * piece + 7 of the row at `row`.
  __device__ static void store(uint32_t row, int piece, const uint4& x) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(row + chunk_offset(row, piece)), "r"(x.x),
                 "r"(x.y), "r"(x.z), "r"(x.w)
                 : "memory");
  }

  __device__ static SplitPair split(float2 x) {
    const uint32_t upper = pack(x.x, x.y);
    const float2 held = unpack(upper);
    return {upper, pack(x.x - held.x, x.y - held.y)};
  }
  __device__ static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_add(c, a, b0, b1);
  }

  /// Sums of products j, the two of `lane`, to where the head's channels are. Lanes 0 to 3.
  __device__ static void store_sums(float* channels, int lane, int j, float2 x) {
    *reinterpret_cast<float2*>(channels + j * 8 + lane * 2) = x;
  }

 private:
  __device__ static uint32_t chunk_offset(uint32_t row, uint32_t chunk) {
    return (chunk ^ (row >> 7 & 7)) * 16;
  }
};

template <>
struct HeadPart<DType::e4m3> {
  static constexpr int kKeyBytes = head_key_bytes(1), kRowBytes = kKeyBytes / kHeadTileRows;

  __device__ __forceinline__ static HeadFragments load(uint32_t place, int lane, int rows) {
    // Matrices of chunks 0 and 1, then 2 and 3: rows 0 to 7 and 8 to 15 of each.
    uint32_t keys[2][4], values[2][4];
    const uint32_t row = place + static_cast<uint32_t>(lane % 16 * kRowBytes);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t chunk = chunk_offset(row, static_cast<uint32_t>(2 * i + lane / 16));
      load_matrices(keys[i], row + chunk);
      load_matrices_transposed(values[i], row + kKeyBytes + chunk);
    }
    const uint32_t low = row_mask(lane % 4 * 2, rows), high = row_mask(lane % 4 * 2 + 8, rows);
    HeadFragments f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // of chunk i
      const uint32_t k0 = keys[i / 2][i % 2 * 2], k1 = keys[i / 2][i % 2 * 2 + 1];
      f.keys[i][0] = halves(k0, false), f.keys[i][1] = halves(k1, false);
      f.keys[i][2] = halves(k0, true), f.keys[i][3] = halves(k1, true);
      // Both rows of the even channel, then of the odd one.
      const uint32_t v0 = __byte_perm(values[i / 2][i % 2 * 2] & low, 0, 0x3120),
                     v1 = __byte_perm(values[i / 2][i % 2 * 2 + 1] & high, 0, 0x3120);
      f.values[i][0] = halves(v0, false), f.values[i][1] = halves(v1, false);
      f.values[i][2] = halves(v0, true), f.values[i][3] = halves(v1, true);
    }
    return f;
  }

  __device__ static int query_pair(int i, int lane) {
    return i / 2 * 8 + lane % 4 * 2 + i % 2;
  }

  /// `x`: a pair of codes in the lower bits of each word.
  __device__ static void store(uint32_t row, int piece, const uint4& x) {
    const uint32_t at = row + chunk_offset(row, static_cast<uint32_t>(piece / 2)) + piece % 2 * 8;
    asm volatile("st.shared.v2.u32 [%0], {%1,%2};" ::"r"(at), "r"(x.x | x.y << 16), "r"(x.z | x.w << 16)
                 : "memory");
  }

  __device__ static SplitPair split(float2 x) {
    const __half2 upper = __float22half2_rn(x);
    const float2 held = __half22float2(upper);
    return {bits(upper), bits(__floats2half2_rn(x.x - held.x, x.y - held.y))};
  }
  __device__ static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_add_f16(c, {a[0], a[1], a[2], a[3]}, {b0, b1});
  }
  __device__ static void store_sums(float* channels, int lane, int j, float2 x) {
    float* to = channels + j / 2 * 16 + lane * 4 + j % 2;
    to[0] = x.x, to[2] = x.y;
  }

 private:
  __device__ static uint32_t chunk_offset(uint32_t row, uint32_t chunk) {
    return (chunk ^ (row >> 7 & 3)) * 16;
  }
  __device__ static uint32_t bits(__half2 x) {
    return reinterpret_cast<const uint32_t&>(x);
  }
  __device__ static uint32_t halves(uint32_t codes, bool upper) {
    return half_pair(upper ? codes >> 16 : codes);
  }
};

#endif
}  // namespace perceiver::kernels::cuda
