// What the f32 kernels of relative attention (relative_float_forward.cu, relative_float_backward.cu) share:
// tiles in shared memory, products of a warp, and the band of scores by position.
//
// A warp owns 16 rows. Scores of 16 queries by K keys need positions of K + 15 successive distances, whose
// products are a band of 16 x (K + 16). Query r and key c of a tile meet at distance (of query 0 and the last
// key) + r + K - 1 - c, so the band is written to shared memory and read along diagonals.
#pragma once

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/attention/relative_attention.cuh"

namespace perceiver::kernels::cuda::float_tiles {

/// Tiles of kWarps * 16 queries and kKeys keys, heads of up to kWidth channels.
template <int kWidth, int kWarpCount, int kKeyCount>
struct FloatShape {
  static constexpr int D = kWidth, kWarps = kWarpCount, kThreads = 32 * kWarps;
  static constexpr int kQueries = 16 * kWarps, kKeys = kKeyCount;
  static constexpr int kBandRows = kQueries + kKeys;  ///< distances of a tile, one to spare
  static constexpr int kWarpBand = kKeys + 16;        ///< those of a warp, likewise
  static constexpr int kPitch = D + 4;
  /// Of bands. Once a band has been read, weights or gradients take its place, row by row: up to kKeys +
  /// kWarpBand of them.
  static constexpr int kScorePitch = 4 + kKeys + kWarpBand;
};

/// How a product reads an operand: as rows of it lie in memory, or as columns.
enum class Read { rows, columns };

/// c += A · B of a warp, A [16, depth], B [depth, 8 N]. A is a[i][k] (rows) or a[k][i] (columns); B is
/// b[n][k] (rows) or b[k][n] (columns). Fragments c[n][4] are those of mma.sync: thread (g, q) = (lane / 4,
/// lane % 4) has rows g and g + 8, columns 8n + 2q and 8n + 2q + 1.
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

template <int N>
__device__ inline void store_fragment(const float (&c)[N][4], float* to, int pitch) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) to[fragment_row(e) * pitch + fragment_column(n, e)] = c[n][e];
}

/// Copies rows to a tile [rows, D] in shared memory; `source(r)` is where row r lies, null for zeros. `bias`
/// (null: none) is added to each row. All threads of the block call it, and `wait_for_rows` before they read.
template <typename S, typename Source>
__device__ inline void load_rows(float* tile, int rows, int width, const float* bias, const Source& source) {
  constexpr int kWide = 4, kChunks = S::D / kWide;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kChunks; i += S::kThreads) {
    const int row = i / kChunks, column = i % kChunks * kWide;
    const float* from = source(row);
    float* to = tile + row * S::kPitch + column;
    const bool wide = bias == nullptr && from != nullptr && column + kWide <= width &&
                      reinterpret_cast<uintptr_t>(from + column) % 16 == 0;
    if (wide) {
      copy_async(shared_address(to), from + column, true);
      continue;
    }
#pragma unroll
    for (int c = 0; c < kWide; ++c) {
      const bool inside = from != nullptr && column + c < width;
      to[c] = inside ? from[column + c] + (bias == nullptr ? 0.0f : bias[column + c]) : 0.0f;
    }
  }
}

__device__ inline void wait_for_rows() {
  copy_commit();
  copy_wait<0>();
  __syncthreads();
}

/// band [16, kWarpBand] of a warp: rows of `queries` times rows of `table` from row 0 on, f32 to `to`.
template <typename S>
__device__ void write_band(const float* queries, const float* table, float* to) {
  float band[S::kWarpBand / 8][4];
  clear(band);
  warp_product<Read::rows, Read::rows>(band, queries, S::kPitch, table, S::kPitch, S::D);
  store_fragment(band, to, S::kScorePitch);
}

/// c[r, c] += band[r, r + kKeys - 1 - c].
template <typename S>
__device__ void add_diagonals(const float* band, float (&c)[S::kKeys / 8][4]) {
#pragma unroll
  for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = fragment_row(e);
      c[n][e] += band[row * S::kScorePitch + row + S::kKeys - 1 - fragment_column(n, e)];
    }
}
/// The tiles of a block in shared memory, one after the other.
template <typename S>
struct Carve {
  unsigned char* next;
  __device__ float* take(int elements) {
    float* piece = reinterpret_cast<float*>(next);
    next += (elements * static_cast<int>(sizeof(float)) + 127) / 128 * 128;
    return piece;
  }
  __device__ float* rows(int count) { return take(count * S::kPitch); }
};

constexpr int shared_bytes(int bytes) {
  return (bytes + 127) / 128 * 128;
}

template <typename S>
constexpr int rows_bytes(int rows) {
  return shared_bytes(rows * S::kPitch * static_cast<int>(sizeof(float)));
}
template <typename S>
constexpr int band_bytes() {
  return shared_bytes(S::kQueries * S::kScorePitch * 4);
}

}  // namespace perceiver::kernels::cuda::float_tiles
