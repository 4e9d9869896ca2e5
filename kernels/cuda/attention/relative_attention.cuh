// What the kernels of relative attention share: tiles in shared memory, products of a warp, what a query
// sees.
//
// One set of kernels serves bf16 (mma.sync m16n8k16, f32 sums) and f32 (the same fragments, computed with FMA
// from shared memory). A warp owns 16 rows; its results are fragments c[N][4] of 16 x 8N: thread (g, q) =
// (lane / 4, lane % 4) has rows g and g + 8, columns 8n + 2q and 8n + 2q + 1.
//
// Scores of 16 queries by K keys need positions of K + 15 successive distances, whose products are a band of
// 16 x (K + 16). Query r and key c of a tile meet at distance (of query 0 and the last key) + r + K - 1 - c,
// so the band is written to shared memory and read along diagonals.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/norm/dropout.cuh"
#include "kernels/cuda/support/common.cuh"
#include "kernels/relative_attention.h"

namespace perceiver::kernels::cuda {

/// Tiles of kWarps * 16 queries and kKeys keys, heads of up to kWidth channels.
template <typename Element, int kWidth, int kWarpCount, int kKeyCount>
struct RelativeShape {
  using T = Element;
  static constexpr int D = kWidth, kWarps = kWarpCount, kThreads = 32 * kWarps;
  static constexpr int kQueries = 16 * kWarps, kKeys = kKeyCount;
  static constexpr int kBandRows = kQueries + kKeys;  ///< distances of a tile, one to spare
  static constexpr int kWarpBand = kKeys + 16;        ///< those of a warp, likewise
  /// Elements of a row, padded so that the rows of an ldmatrix lie in different banks.
  static constexpr int kPad = 16 / static_cast<int>(sizeof(T));
  static constexpr int kPitch = D + kPad;
  /// Of f32 bands. Once a band has been read, weights or gradients take its place, row by row, as T: up to
  /// kKeys + kWarpBand of them.
  static constexpr int kScorePitch = 4 + (sizeof(T) == 2 ? kWarpBand : kKeys + kWarpBand);
  static constexpr int kOverlayPitch = kScorePitch * 4 / static_cast<int>(sizeof(T));
  static_assert(kKeys + kWarpBand <= kOverlayPitch);
};

/// How a product reads an operand: as rows of it lie in memory, or as columns.
enum class Read { rows, columns };

/// c += A · B of a warp, A [16, depth], B [depth, 8 N]; depth a multiple of 16. A is a[i][k] (rows) or
/// a[k][i] (columns); B is b[n][k] (rows) or b[k][n] (columns).
template <Read kA, Read kB, int N>
__device__ inline void warp_product(float (&c)[N][4], const __nv_bfloat16* a, int a_pitch,
                                    const __nv_bfloat16* b, int b_pitch, int depth) {
  static_assert(N % 2 == 0, "ldmatrix takes two fragments of B at a time");
  constexpr int kBytes = 2;
  // This lane's row of the four 8 x 8 matrices of an ldmatrix, and what a step of 16 in depth adds.
  const int lane = static_cast<int>(threadIdx.x) % 32, half = lane / 8 % 2 * 8, end = lane / 16 * 8;
  const int a_row = kA == Read::rows ? lane % 16 : end + lane % 8, a_column = kA == Read::rows ? end : half;
  const int b_row = kB == Read::rows ? end + lane % 8 : lane % 16, b_column = kB == Read::rows ? half : end;
  const uint32_t a_step = kBytes * 16 * (kA == Read::rows ? 1 : a_pitch),
                 b_step = kBytes * 16 * (kB == Read::rows ? 1 : b_pitch),
                 b_next = kBytes * 16 * (kB == Read::rows ? b_pitch : 1);
  uint32_t a_at = shared_address(a + a_row * a_pitch + a_column),
           b_at = shared_address(b + b_row * b_pitch + b_column);
  for (int k = 0; k < depth; k += 16, a_at += a_step, b_at += b_step) {
    uint32_t x[4];
    if constexpr (kA == Read::rows) {
      load_matrices(x, a_at);
    } else {
      load_matrices_transposed(x, a_at);
    }
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t y[4];
      if constexpr (kB == Read::rows) {
        load_matrices(y, b_at + static_cast<uint32_t>(n / 2) * b_next);
      } else {
        load_matrices_transposed(y, b_at + static_cast<uint32_t>(n / 2) * b_next);
      }
      multiply_add(c[n], x, y[0], y[1]);
      multiply_add(c[n + 1], x, y[2], y[3]);
    }
  }
}

template <Read kA, Read kB, int N>
__device__ inline void warp_product(float (&c)[N][4], const float* a, int a_pitch, const float* b,
                                    int b_pitch, int depth) {
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, q = static_cast<int>(threadIdx.x) % 4 * 2;
  for (int k = 0; k < depth; ++k) {
    float x[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      x[i] = kA == Read::rows ? a[(g + i * 8) * a_pitch + k] : a[k * a_pitch + g + i * 8];
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = n * 8 + q + e;
        const float y = kB == Read::rows ? b[column * b_pitch + k] : b[k * b_pitch + column];
        c[n][e] = fmaf(x[0], y, c[n][e]);
        c[n][2 + e] = fmaf(x[1], y, c[n][2 + e]);
      }
  }
}

template <int N>
__device__ inline void clear(float (&c)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) c[n][e] = 0;
}

/// Row and column of element e of fragment n in its 16 x 8N.
__device__ inline int fragment_row(int e) {
  return static_cast<int>(threadIdx.x) % 32 / 4 + e / 2 * 8;
}
__device__ inline int fragment_column(int n, int e) {
  return n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + e % 2;
}

template <typename T, int N>
__device__ inline void store_fragment(const float (&c)[N][4], T* to, int pitch) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) to[fragment_row(e) * pitch + fragment_column(n, e)] = from_float<T>(c[n][e]);
}

/// One head of one example.
template <typename S>
struct RelativeHead {
  using T = typename S::T;
  const RelativeAttention& k;
  int64_t example, head;

  __device__ int memory() const { return static_cast<int>(k.keys - k.queries); }
  __device__ int first() const { return k.first == nullptr ? 0 : max(k.first[example], 0); }
  __device__ int width() const { return static_cast<int>(k.head_dim); }
  __device__ int64_t row_width() const { return k.heads * k.head_dim; }
  __device__ const T* queries(const void* matrix, int64_t stride, int64_t row) const {
    return static_cast<const T*>(matrix) + (example * k.queries + row) * stride + head * k.head_dim;
  }
  __device__ int64_t key_offset(int64_t row) const {
    return (example * k.keys + row) * k.kv_stride + head * k.head_dim;
  }
  __device__ const T* position(int distance) const {
    const int64_t row = min(max(distance, 0), static_cast<int>(k.distances) - 1);
    return static_cast<const T*>(k.positions) + row * row_width() + head * k.head_dim;
  }
  __device__ bool sees(int query, int key) const {
    const int distance = memory() + query - key;
    return query < k.queries && key >= first() && distance >= 0 && key >= 0 &&
           (k.window == 0 || distance < k.window);
  }
  /// Whether 16 queries from `query` on see all of `keys` keys from `key` on; queries beyond the last do not
  /// count.
  __device__ bool all_see(int query, int key, int keys) const {
    const int nearest = memory() + query - (key + keys - 1), farthest = memory() + query + 15 - key;
    return key >= first() && nearest >= 0 && (k.window == 0 || farthest < k.window);
  }
  __device__ int64_t lse_row(int query) const { return (example * k.heads + head) * k.queries + query; }
  /// Number of a weight's element in its dropout mask.
  __device__ int64_t element(int query, int key) const { return lse_row(query) * k.keys + key; }
  /// Keys that queries [begin, begin + count) may see: [key_begin, key_end).
  __device__ int key_begin(int begin) const {
    return k.window == 0 ? first() : max(first(), memory() + begin - static_cast<int>(k.window) + 1);
  }
  __device__ int key_end(int end) const { return min(memory() + end, static_cast<int>(k.keys)); }
};

/// Copies rows to a tile [rows, D] in shared memory; `source(r)` is where row r lies, null for zeros. `bias`
/// (null: none) is added to each row. All threads of the block call it, and `wait_for_rows` before they read.
template <typename S, typename Source>
__device__ inline void load_rows(typename S::T* tile, int rows, int width, const typename S::T* bias,
                                 const Source& source) {
  using T = typename S::T;
  constexpr int kWide = 16 / static_cast<int>(sizeof(T)), kChunks = S::D / kWide;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kChunks; i += S::kThreads) {
    const int row = i / kChunks, column = i % kChunks * kWide;
    const T* from = source(row);
    T* to = tile + row * S::kPitch + column;
    const bool wide = bias == nullptr && from != nullptr && column + kWide <= width &&
                      reinterpret_cast<uintptr_t>(from + column) % 16 == 0;
    if (wide) {
      copy_async(shared_address(to), from + column, true);
      continue;
    }
#pragma unroll
    for (int c = 0; c < kWide; ++c) {
      const bool inside = from != nullptr && column + c < width;
      const float x = inside ? to_float(from[column + c]) : 0.0f;
      to[c] = from_float<T>(inside && bias != nullptr ? x + to_float(bias[column + c]) : x);
    }
  }
}

__device__ inline void wait_for_rows() {
  copy_commit();
  copy_wait<0>();
  __syncthreads();
}

}  // namespace perceiver::kernels::cuda
