// Relative attention (Transformer-XL) forward and backward in f32, tiled, without a score matrix.
// Deterministic: every sum has a fixed order.
//
// forward   a block has a tile of queries of one head and goes over the keys they see: band of q + v with the
//           distances, scores, online softmax, weights times values.
// backward  four kernels, each of which computes the scores again:
//           delta = rowsum(dO * O);
//           d_q: a block per tile of queries; also the tile's sums for the biases;
//           d_k, d_v: a block per tile of keys, over the queries that see them;
//           positions: a block per tile of distances, over examples and queries. Keys and distances change
//           roles: a tile of queries by distances needs a band of keys and values.
//
// A warp owns 16 rows. Scores of 16 queries by K keys need positions of K + 15 successive distances, whose
// products are a band of 16 x (K + 16). Query r and key c of a tile meet at distance (of query 0 and the last
// key) + r + K - 1 - c, so the band is written to shared memory and read along diagonals.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/attention/relative_attention.cuh"

namespace perceiver::kernels::cuda {
namespace {

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

/// Scores of keys that a query does not see, keys beyond the last among them, become -infinity.
template <typename S>
__device__ void hide_scores(const RelativeHead<float>& head, int query, int key,
                            float (&s)[S::kKeys / 8][4]) {
#pragma unroll
  for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (!head.sees(query + fragment_row(e), key + fragment_column(n, e))) s[n][e] = -INFINITY;
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
template <typename S>
constexpr int forward_bytes() {
  return 2 * rows_bytes<S>(S::kQueries) + 2 * rows_bytes<S>(S::kKeys) + rows_bytes<S>(S::kBandRows) +
         band_bytes<S>();
}

template <typename S>
__global__ void __launch_bounds__(S::kThreads)
    relative_forward_kernel(const __grid_constant__ RelativeForward a) {
  extern __shared__ __align__(128) unsigned char memory[];
  const RelativeAttention& k = a.k;
  const RelativeHead<float> head{k, blockIdx.z, blockIdx.y};
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  // Late queries see more keys, so they go first.
  const int begin = static_cast<int>(gridDim.x - 1 - blockIdx.x) * S::kQueries;
  const int count = min(S::kQueries, static_cast<int>(k.queries) - begin);
  Carve<S> carve{memory};
  float *content = carve.rows(S::kQueries), *position = carve.rows(S::kQueries), *keys = carve.rows(S::kKeys),
        *values = carve.rows(S::kKeys), *table = carve.rows(S::kBandRows);
  float* band = carve.take(S::kQueries * S::kScorePitch) + warp * 16 * S::kScorePitch;
  float* weights = band;

  const auto query_row = [&](int r) {
    return r < count ? head.queries(k.q, k.q_stride, begin + r) : nullptr;
  };
  const int64_t offset = head.head * k.head_dim;
  load_rows<S>(content, S::kQueries, head.width(), static_cast<const float*>(k.content_bias) + offset,
               query_row);
  load_rows<S>(position, S::kQueries, head.width(), static_cast<const float*>(k.position_bias) + offset,
               query_row);

  float out[S::D / 8][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  clear(out);
  const DropoutFactors dropout(k.dropout);
  const int key_end = head.key_end(begin + count), key_begin = head.key_begin(begin);
  const auto load_keys = [&](float* tile, const void* matrix, int key) {
    load_rows<S>(tile, S::kKeys, head.width(), nullptr, [&](int r) {
      return key + r < key_end ? static_cast<const float*>(matrix) + head.key_offset(key + r) : nullptr;
    });
  };
  const auto load_scores = [&](int key) {
    const int nearest = head.memory() + begin - (key + S::kKeys - 1);
    load_keys(keys, k.k, key);
    load_rows<S>(table, S::kBandRows, head.width(), nullptr,
                 [&](int r) { return head.position(nearest + r); });
  };
  // Loading values overlaps the scores, loading the next keys overlaps the softmax and the values' product.
  if (key_begin < key_end) load_scores(key_begin);
  for (int key = key_begin; key < key_end; key += S::kKeys) {
    const int rows = min(S::kKeys, key_end - key);
    wait_for_rows();  // keys and distances; all warps are done with the previous values
    load_keys(values, k.v, key);
    write_band<S>(position + warp * 16 * S::kPitch, table + warp * 16 * S::kPitch, band);
    float s[S::kKeys / 8][4];
    clear(s);
    warp_product<Read::rows, Read::rows>(s, content + warp * 16 * S::kPitch, S::kPitch, keys, S::kPitch,
                                         S::D);
    __syncwarp();
    add_diagonals<S>(band, s);
    wait_for_rows();  // values; all warps are done with keys and distances
    if (key + S::kKeys < key_end) load_scores(key + S::kKeys);
    if (rows < S::kKeys || !head.all_see(begin + warp * 16, 16, key, S::kKeys))
      hide_scores<S>(head, begin + warp * 16, key, s);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[n][e] *= a.scale;
          most = fmaxf(most, s[n][e]);
        }
      most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 2));
      const float shift = most == -INFINITY ? 0.0f : most;
      const float correction = expf(largest[half] - shift);
      largest[half] = most;
      sum[half] *= correction;
#pragma unroll
      for (int n = 0; n < S::D / 8; ++n) {
        out[n][2 * half] *= correction;
        out[n][2 * half + 1] *= correction;
      }
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[n][e] = expf(s[n][e] - shift);
          sum[half] += s[n][e];
        }
    }
    if (k.dropout.threshold > 0) {
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float factor[1];
          dropout.get(head.element(begin + warp * 16 + fragment_row(e), key + fragment_column(n, e)), factor);
          s[n][e] *= factor[0];
        }
    }
    __syncwarp();  // the band has been read
    store_fragment(s, weights, S::kScorePitch);
    __syncwarp();
    warp_product<Read::rows, Read::columns>(out, weights, S::kScorePitch, values, S::kPitch, S::kKeys);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(0xFFFFFFFFu, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xFFFFFFFFu, sum[half], 2);
    const int query = begin + warp * 16 + fragment_row(2 * half);
    if (query >= k.queries) continue;
    const bool blind = !(sum[half] > 0);
    const float inverse = blind ? 0.0f : 1.0f / sum[half];
    if (lane % 4 == 0)
      static_cast<float*>(k.lse)[head.lse_row(query)] = blind ? kBlind : largest[half] + logf(sum[half]);
    float* to = static_cast<float*>(k.out) + (head.example * k.queries + query) * k.out_stride + offset;
#pragma unroll
    for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = fragment_column(n, e);
        if (column < head.width()) to[column] = out[n][2 * half + e] * inverse;
      }
  }
}

/// delta[b, h, i] = dO_i · O_i; a warp per row.
__global__ void relative_delta_kernel(const __grid_constant__ RelativeBackward a) {
  const RelativeAttention& k = a.a.forward;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (row >= k.batch * k.heads * k.queries) return;
  const int64_t query = row % k.queries, head = row / k.queries % k.heads,
                example = row / k.queries / k.heads;
  const int64_t offset = (example * k.queries + query) * k.out_stride + head * k.head_dim;
  float sum = 0;
  for (int64_t c = threadIdx.x % 32; c < k.head_dim; c += 32)
    sum += static_cast<const float*>(k.out)[offset + c] * static_cast<const float*>(a.a.d_out)[offset + c];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) a.scratch.delta[row] = sum;
}

/// Turns scores s and products dp = dO · v of a warp's rows into weights and score gradients. `key_of(c)` is
/// the key of column c in row r; kAllSeen: it is seen. (Rows that are no queries have a log-sum-exp of
/// infinity.)
template <typename S, bool kAllSeen, typename KeyOf>
__device__ void tile_gradients(const RelativeBackward& a, const RelativeHead<float>& head,
                               const DropoutFactors& dropout, int first_query, const KeyOf& key_of,
                               float (&s)[S::kKeys / 8][4], float (&dp)[S::kKeys / 8][4]) {
  const RelativeAttention& k = head.k;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = fragment_row(2 * half), query = first_query + row;
    const bool inside = query < k.queries;
    const float lse = inside ? static_cast<const float*>(k.lse)[head.lse_row(query)] : kBlind;
    const float delta = inside ? a.scratch.delta[head.lse_row(query)] : 0.0f;
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        const int key = key_of(row, fragment_column(n, e));
        const bool seen = kAllSeen || head.sees(query, key);
        const float p = seen ? expf(s[n][e] * a.scale - lse) : 0.0f;
        float factor[1] = {1};
        if (k.dropout.threshold > 0 && seen) dropout.get(head.element(query, key), factor);
        dp[n][e] = seen ? p * (factor[0] * dp[n][e] - delta) * a.scale : 0.0f;
        s[n][e] = p * factor[0];
      }
  }
}

template <typename S, typename KeyOf>
__device__ void score_gradients(const RelativeBackward& a, const RelativeHead<float>& head,
                                const DropoutFactors& dropout, int first_query, bool all_seen,
                                const KeyOf& key_of, float (&s)[S::kKeys / 8][4],
                                float (&dp)[S::kKeys / 8][4]) {
  if (all_seen) {
    tile_gradients<S, true>(a, head, dropout, first_query, key_of, s, dp);
  } else {
    tile_gradients<S, false>(a, head, dropout, first_query, key_of, s, dp);
  }
}

template <typename S>
constexpr int query_bytes() {
  return 3 * rows_bytes<S>(S::kQueries) + 2 * rows_bytes<S>(S::kKeys) + rows_bytes<S>(S::kBandRows) +
         band_bytes<S>() + shared_bytes(2 * S::kWarps * S::D * 4);
}

/// d_q of a tile of queries, and its sums for the biases.
template <typename S>
__global__ void __launch_bounds__(S::kThreads)
    relative_query_kernel(const __grid_constant__ RelativeBackward a) {
  extern __shared__ __align__(128) unsigned char memory[];
  const RelativeAttention& k = a.a.forward;
  const RelativeHead<float> head{k, blockIdx.z, blockIdx.y};
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x), begin = tile * S::kQueries;
  const int count = min(S::kQueries, static_cast<int>(k.queries) - begin);
  Carve<S> carve{memory};
  float *content = carve.rows(S::kQueries), *position = carve.rows(S::kQueries),
        *d_out = carve.rows(S::kQueries), *keys = carve.rows(S::kKeys), *values = carve.rows(S::kKeys),
        *table = carve.rows(S::kBandRows);
  float* band = carve.take(S::kQueries * S::kScorePitch) + warp * 16 * S::kScorePitch;
  float *gradients = band, *d_band = gradients + S::kKeys;
  float* sums = carve.take(2 * S::kWarps * S::D);  // [2, warps, D]

  const auto query_row = [&](int r) {
    return r < count ? head.queries(k.q, k.q_stride, begin + r) : nullptr;
  };
  const int64_t offset = head.head * k.head_dim;
  load_rows<S>(content, S::kQueries, head.width(), static_cast<const float*>(k.content_bias) + offset,
               query_row);
  load_rows<S>(position, S::kQueries, head.width(), static_cast<const float*>(k.position_bias) + offset,
               query_row);
  load_rows<S>(d_out, S::kQueries, head.width(), nullptr,
               [&](int r) { return r < count ? head.queries(a.a.d_out, k.out_stride, begin + r) : nullptr; });
  const int own = warp * 16 * S::kPitch;
  float d_content[S::D / 8][4], d_position[S::D / 8][4];
  clear(d_content);
  clear(d_position);
  const DropoutFactors dropout(k.dropout);
  const int key_end = head.key_end(begin + count);
  for (int key = head.key_begin(begin); key < key_end; key += S::kKeys) {
    const int rows = min(S::kKeys, key_end - key);
    const int nearest = head.memory() + begin - (key + S::kKeys - 1);
    __syncthreads();
    load_rows<S>(keys, S::kKeys, head.width(), nullptr, [&](int r) {
      return r < rows ? static_cast<const float*>(k.k) + head.key_offset(key + r) : nullptr;
    });
    load_rows<S>(values, S::kKeys, head.width(), nullptr, [&](int r) {
      return r < rows ? static_cast<const float*>(k.v) + head.key_offset(key + r) : nullptr;
    });
    load_rows<S>(table, S::kBandRows, head.width(), nullptr,
                 [&](int r) { return head.position(nearest + r); });
    wait_for_rows();
    write_band<S>(position + own, table + own, band);
    float s[S::kKeys / 8][4], dp[S::kKeys / 8][4];
    clear(s);
    clear(dp);
    warp_product<Read::rows, Read::rows>(s, content + own, S::kPitch, keys, S::kPitch, S::D);
    warp_product<Read::rows, Read::rows>(dp, d_out + own, S::kPitch, values, S::kPitch, S::D);
    __syncwarp();
    add_diagonals<S>(band, s);
    score_gradients<S>(
        a, head, dropout, begin + warp * 16, head.all_see(begin + warp * 16, 16, key, S::kKeys),
        [key](int, int c) { return key + c; }, s, dp);
    __syncwarp();  // the f32 band has been read
    store_fragment(dp, gradients, S::kScorePitch);
    for (int i = lane; i < 16 * S::kWarpBand; i += 32)
      d_band[i / S::kWarpBand * S::kScorePitch + i % S::kWarpBand] = 0.0f;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = fragment_row(e);
        d_band[row * S::kScorePitch + row + S::kKeys - 1 - fragment_column(n, e)] = dp[n][e];
      }
    __syncwarp();
    warp_product<Read::rows, Read::columns>(d_content, gradients, S::kScorePitch, keys, S::kPitch, S::kKeys);
    warp_product<Read::rows, Read::columns>(d_position, d_band, S::kScorePitch, table + own, S::kPitch,
                                            S::kWarpBand);
  }
#pragma unroll
  for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int query = begin + warp * 16 + fragment_row(e), column = fragment_column(n, e);
      if (query < k.queries && column < head.width())
        static_cast<float*>(a.a.d_q)[(head.example * k.queries + query) * k.q_stride + offset + column] =
            d_content[n][e] + d_position[n][e];
    }
    // Column sums: rows that are no queries have zero gradients.
#pragma unroll
  for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float content_sum = d_content[n][e] + d_content[n][e + 2],
            position_sum = d_position[n][e] + d_position[n][e + 2];
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        content_sum += __shfl_xor_sync(0xFFFFFFFFu, content_sum, step);
        position_sum += __shfl_xor_sync(0xFFFFFFFFu, position_sum, step);
      }
      if (lane < 4) {
        sums[warp * S::D + fragment_column(n, e)] = content_sum;
        sums[(S::kWarps + warp) * S::D + fragment_column(n, e)] = position_sum;
      }
    }
  __syncthreads();
  const int64_t block = head.example * gridDim.x + tile;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * head.width(); i += S::kThreads) {
    const int which = i / head.width(), column = i % head.width();
    float sum = 0;
    for (int w = 0; w < S::kWarps; ++w) sum += sums[(which * S::kWarps + w) * S::D + column];
    float* parts = which == 0 ? a.scratch.content_biases : a.scratch.position_biases;
    parts[block * head.row_width() + offset + column] = sum;
  }
}

template <typename S>
constexpr int key_bytes() {
  return 3 * rows_bytes<S>(S::kQueries) + 2 * rows_bytes<S>(S::kKeys) + rows_bytes<S>(S::kBandRows) +
         band_bytes<S>();
}

/// d_k and d_v of a tile of keys.
template <typename S>
__global__ void __launch_bounds__(S::kThreads)
    relative_key_kernel(const __grid_constant__ RelativeBackward a) {
  static_assert(S::kKeys == S::kQueries, "a warp owns 16 rows of either");
  extern __shared__ __align__(128) unsigned char memory[];
  const RelativeAttention& k = a.a.forward;
  const RelativeHead<float> head{k, blockIdx.z, blockIdx.y};
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int key = static_cast<int>(blockIdx.x) * S::kKeys,
            rows = min(S::kKeys, static_cast<int>(k.keys) - key);
  Carve<S> carve{memory};
  float *content = carve.rows(S::kQueries), *position = carve.rows(S::kQueries),
        *d_out = carve.rows(S::kQueries), *keys = carve.rows(S::kKeys), *values = carve.rows(S::kKeys),
        *table = carve.rows(S::kBandRows);
  float* bands = carve.take(S::kQueries * S::kScorePitch);
  float* band = bands + warp * 16 * S::kScorePitch;
  float *weights = bands, *gradients = weights + S::kKeys;
  load_rows<S>(keys, S::kKeys, head.width(), nullptr, [&](int r) {
    return r < rows ? static_cast<const float*>(k.k) + head.key_offset(key + r) : nullptr;
  });
  load_rows<S>(values, S::kKeys, head.width(), nullptr, [&](int r) {
    return r < rows ? static_cast<const float*>(k.v) + head.key_offset(key + r) : nullptr;
  });
  const int64_t offset = head.head * k.head_dim;
  const int own = warp * 16 * S::kPitch;
  float d_key[S::D / 8][4], d_value[S::D / 8][4];
  clear(d_key);
  clear(d_value);
  const DropoutFactors dropout(k.dropout);
  // Queries that see some key of the tile: not before its first key, and within the window of its last.
  const int first = max(key - head.memory(), 0) / S::kQueries * S::kQueries;
  const int64_t reach = k.window == 0 ? k.queries : key + rows - 1 - head.memory() + k.window;
  const int end = static_cast<int>(max(min(reach, k.queries), int64_t{0}));
  for (int begin = key + rows <= head.first ? end : first; begin < end; begin += S::kQueries) {
    const int count = min(S::kQueries, static_cast<int>(k.queries) - begin);
    const int nearest = head.memory() + begin - (key + S::kKeys - 1);
    const auto query_row = [&](int r) {
      return r < count ? head.queries(k.q, k.q_stride, begin + r) : nullptr;
    };
    __syncthreads();
    load_rows<S>(content, S::kQueries, head.width(), static_cast<const float*>(k.content_bias) + offset,
                 query_row);
    load_rows<S>(position, S::kQueries, head.width(), static_cast<const float*>(k.position_bias) + offset,
                 query_row);
    load_rows<S>(d_out, S::kQueries, head.width(), nullptr, [&](int r) {
      return r < count ? head.queries(a.a.d_out, k.out_stride, begin + r) : nullptr;
    });
    load_rows<S>(table, S::kBandRows, head.width(), nullptr,
                 [&](int r) { return head.position(nearest + r); });
    wait_for_rows();
    write_band<S>(position + own, table + own, band);
    float s[S::kKeys / 8][4], dp[S::kKeys / 8][4];
    clear(s);
    clear(dp);
    warp_product<Read::rows, Read::rows>(s, content + own, S::kPitch, keys, S::kPitch, S::D);
    warp_product<Read::rows, Read::rows>(dp, d_out + own, S::kPitch, values, S::kPitch, S::D);
    __syncwarp();
    add_diagonals<S>(band, s);
    score_gradients<S>(
        a, head, dropout, begin + warp * 16, head.all_see(begin + warp * 16, 16, key, S::kKeys),
        [key](int, int c) { return key + c; }, s, dp);
    __syncwarp();  // the band has been read
    store_fragment(s, weights + warp * 16 * S::kScorePitch, S::kScorePitch);
    store_fragment(dp, gradients + warp * 16 * S::kScorePitch, S::kScorePitch);
    __syncthreads();
    warp_product<Read::columns, Read::columns>(d_value, weights + warp * 16, S::kScorePitch, d_out, S::kPitch,
                                               S::kQueries);
    warp_product<Read::columns, Read::columns>(d_key, gradients + warp * 16, S::kScorePitch, content,
                                               S::kPitch, S::kQueries);
  }
#pragma unroll
  for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = warp * 16 + fragment_row(e), column = fragment_column(n, e);
      if (row >= rows || column >= head.width()) continue;
      static_cast<float*>(a.a.d_k)[head.key_offset(key + row) + column] = d_key[n][e];
      static_cast<float*>(a.a.d_v)[head.key_offset(key + row) + column] = d_value[n][e];
    }
}

template <typename S>
constexpr int position_bytes() {
  return 3 * rows_bytes<S>(S::kQueries) + 2 * rows_bytes<S>(S::kBandRows) + rows_bytes<S>(S::kKeys) +
         band_bytes<S>();
}

/// Sums for a tile of distances [from, from + kKeys), over all queries of a split's examples: to the scratch.
template <typename S>
__global__ void __launch_bounds__(S::kThreads)
    relative_position_kernel(const __grid_constant__ RelativeBackward a) {
  extern __shared__ __align__(128) unsigned char memory[];
  const RelativeAttention& k = a.a.forward;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int from = static_cast<int>(blockIdx.x) * S::kKeys;
  Carve<S> carve{memory};
  float *content = carve.rows(S::kQueries), *position = carve.rows(S::kQueries),
        *d_out = carve.rows(S::kQueries), *keys = carve.rows(S::kBandRows),
        *values = carve.rows(S::kBandRows), *table = carve.rows(S::kKeys);
  float* bands = carve.take(S::kQueries * S::kScorePitch);
  float* band = bands + warp * 16 * S::kScorePitch;
  float* gradients = bands;
  const int64_t head_number = blockIdx.y, offset = head_number * k.head_dim;
  const int own = warp * 16 * S::kPitch;
  float sums[S::D / 8][4];
  clear(sums);
  const DropoutFactors dropout(k.dropout);
  {
    const RelativeHead<float> head{k, 0, head_number};
    load_rows<S>(table, S::kKeys, head.width(), nullptr, [&](int r) { return head.position(from + r); });
  }
  const bool in_window = k.window == 0 || from < k.window;
  const int64_t split = blockIdx.z, last = k.batch * (split + 1) / a.splits;
  for (int64_t example = k.batch * split / a.splits; in_window && example < last; ++example) {
    const RelativeHead<float> head{k, example, head_number};
    // Query i is at this distance from key m + i - t: queries before t - m have none.
    const int first = max(from - head.memory(), 0) / S::kQueries * S::kQueries;
    for (int begin = first; begin < k.queries; begin += S::kQueries) {
      const int count = min(S::kQueries, static_cast<int>(k.queries) - begin);
      const int nearest = head.memory() + begin - (from + S::kKeys - 1);  // key of query 0, largest distance
      if (nearest + S::kBandRows <= head.first) continue;
      const auto query_row = [&](int r) {
        return r < count ? head.queries(k.q, k.q_stride, begin + r) : nullptr;
      };
      const auto key_row = [&](const void* matrix, int r) {
        const int key = nearest + r;
        return key >= 0 && key < k.keys ? static_cast<const float*>(matrix) + head.key_offset(key) : nullptr;
      };
      __syncthreads();
      load_rows<S>(content, S::kQueries, head.width(), static_cast<const float*>(k.content_bias) + offset,
                   query_row);
      load_rows<S>(position, S::kQueries, head.width(), static_cast<const float*>(k.position_bias) + offset,
                   query_row);
      load_rows<S>(d_out, S::kQueries, head.width(), nullptr, [&](int r) {
        return r < count ? head.queries(a.a.d_out, k.out_stride, begin + r) : nullptr;
      });
      load_rows<S>(keys, S::kBandRows, head.width(), nullptr, [&](int r) { return key_row(k.k, r); });
      load_rows<S>(values, S::kBandRows, head.width(), nullptr, [&](int r) { return key_row(k.v, r); });
      wait_for_rows();
      float s[S::kKeys / 8][4], dp[S::kKeys / 8][4];
      clear(s);
      clear(dp);
      warp_product<Read::rows, Read::rows>(s, position + own, S::kPitch, table, S::kPitch, S::D);
      write_band<S>(content + own, keys + own, band);
      __syncwarp();
      add_diagonals<S>(band, s);
      __syncwarp();
      write_band<S>(d_out + own, values + own, band);
      __syncwarp();
      add_diagonals<S>(band, dp);
      const int nearest_key = head.memory() + begin + warp * 16 - (from + S::kKeys - 1);
      const bool all_seen = nearest_key >= head.first && (k.window == 0 || from + S::kKeys - 1 < k.window);
      score_gradients<S>(
          a, head, dropout, begin + warp * 16, all_seen,
          [&](int r, int c) { return head.memory() + begin + warp * 16 + r - (from + c); }, s, dp);
      __syncwarp();  // the band has been read
      store_fragment(dp, gradients + warp * 16 * S::kScorePitch, S::kScorePitch);
      __syncthreads();
      warp_product<Read::columns, Read::columns>(sums, gradients + warp * 16, S::kScorePitch, position,
                                                 S::kPitch, S::kQueries);
    }
  }
#pragma unroll
  for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int distance = from + warp * 16 + fragment_row(e), column = fragment_column(n, e);
      if (distance < k.keys && column < k.head_dim)
        a.scratch.positions[(split * k.keys + distance) * k.heads * k.head_dim + offset + column] =
            sums[n][e];
    }
}

template <typename S>
void launch_forward(const Launch& launch, const RelativeForward& a) {
  allow_shared(relative_forward_kernel<S>, forward_bytes<S>());
  relative_forward_kernel<S><<<grid_of(ceil_div(a.k.queries, S::kQueries), a.k.heads, a.k.batch), S::kThreads,
                               forward_bytes<S>(), stream_of(launch)>>>(a);
  check_launch("relative_forward_kernel");
}

template <typename S>
void launch_backward(const Launch& launch, const RelativeBackward& a) {
  static_assert(S::kQueries == kFloatQueries);
  const RelativeAttention& k = a.a.forward;
  const cudaStream_t stream = stream_of(launch);
  relative_delta_kernel<<<static_cast<unsigned>(ceil_div(k.batch * k.heads * k.queries, 8)), 256, 0,
                          stream>>>(a);
  check_launch("relative_delta_kernel");
  allow_shared(relative_query_kernel<S>, query_bytes<S>());
  relative_query_kernel<S><<<grid_of(ceil_div(k.queries, S::kQueries), k.heads, k.batch), S::kThreads,
                             query_bytes<S>(), stream>>>(a);
  check_launch("relative_query_kernel");
  allow_shared(relative_key_kernel<S>, key_bytes<S>());
  relative_key_kernel<S>
      <<<grid_of(ceil_div(k.keys, S::kKeys), k.heads, k.batch), S::kThreads, key_bytes<S>(), stream>>>(a);
  check_launch("relative_key_kernel");
  allow_shared(relative_position_kernel<S>, position_bytes<S>());
  relative_position_kernel<S>
      <<<grid_of(ceil_div(k.keys, S::kKeys), k.heads, a.splits), S::kThreads, position_bytes<S>(), stream>>>(
          a);
  check_launch("relative_position_kernel");
}

}  // namespace

void relative_forward_float(const Launch& launch, const RelativeForward& a) {
  if (a.k.head_dim <= 64) return launch_forward<FloatShape<64, 2, 32>>(launch, a);
  launch_forward<FloatShape<128, 2, 32>>(launch, a);
}

void relative_backward_float(const Launch& launch, const RelativeBackward& a) {
  if (a.a.forward.head_dim <= 64) return launch_backward<FloatShape<64, 2, 32>>(launch, a);
  launch_backward<FloatShape<128, 2, 32>>(launch, a);
}

}  // namespace perceiver::kernels::cuda
