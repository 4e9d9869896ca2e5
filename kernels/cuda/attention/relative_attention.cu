// Relative attention (Transformer-XL) forward and backward, tiled, without a score matrix; see
// relative_attention.cuh for tiles and products. Deterministic: every sum has a fixed order.
//
// forward   a block has a tile of queries of one head and goes over the keys they see: band of q + v with the
//           distances, scores, online softmax, weights times values.
// backward  four kernels, each of which computes the scores again:
//           delta = rowsum(dO * O);
//           d_q: a block per tile of queries; also the tile's sums for the biases;
//           d_k, d_v: a block per tile of keys, over the queries that see them;
//           d_positions: a block per tile of distances, over examples and queries. Keys and distances change
//           roles: a tile of queries by distances needs a band of keys and values. Sums per distance go to
//           the scratch in f32; the last row of the table takes all distances beyond it.
//
// Shared memory, bf16, D = 64, 64 queries by 64 keys: 75 KiB forward, 93 KiB at most backward.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention/relative_attention.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr float kBlind = INFINITY;  // lse of a row that sees nothing

struct RelativeForward {
  RelativeAttention k;
  float scale;
};

/// Where backward keeps what is added up later, in f32.
struct RelativeScratch {
  float* delta;      // [batch, heads, queries]
  float* biases;     // [2, batch * query tiles, heads * head_dim]
  float* positions;  // [splits, distances of the pass, heads * head_dim]
};

struct RelativeBackward {
  RelativeAttentionBackward a;
  float scale;
  RelativeScratch scratch;
  int64_t all_distances;  // of the pass, clamped or not
  int splits;             // of the examples, in the sums of the positions
};

/// band [16, kWarpBand] of a warp: rows of `queries` times rows of `table` from row 0 on, f32 to `to`.
template <typename S>
__device__ void write_band(const typename S::T* queries, const typename S::T* table, float* to) {
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
__device__ void hide_scores(const RelativeHead<S>& head, int query, int key, float (&s)[S::kKeys / 8][4]) {
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
  template <typename T>
  __device__ T* take(int elements) {
    T* piece = reinterpret_cast<T*>(next);
    next += (elements * static_cast<int>(sizeof(T)) + 127) / 128 * 128;
    return piece;
  }
  __device__ typename S::T* rows(int count) { return take<typename S::T>(count * S::kPitch); }
};

constexpr int shared_bytes(int bytes) {
  return (bytes + 127) / 128 * 128;
}

template <typename S>
constexpr int rows_bytes(int rows) {
  return shared_bytes(rows * S::kPitch * static_cast<int>(sizeof(typename S::T)));
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
  using T = typename S::T;
  extern __shared__ __align__(128) unsigned char memory[];
  const RelativeAttention& k = a.k;
  const RelativeHead<S> head{k, blockIdx.z, blockIdx.y};
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  // Late queries see more keys, so they go first.
  const int begin = static_cast<int>(gridDim.x - 1 - blockIdx.x) * S::kQueries;
  const int count = min(S::kQueries, static_cast<int>(k.queries) - begin);
  Carve<S> carve{memory};
  T *content = carve.rows(S::kQueries), *position = carve.rows(S::kQueries), *keys = carve.rows(S::kKeys),
    *values = carve.rows(S::kKeys), *table = carve.rows(S::kBandRows);
  float* band = carve.template take<float>(S::kQueries * S::kScorePitch) + warp * 16 * S::kScorePitch;
  T* weights = reinterpret_cast<T*>(band);

  const auto query_row = [&](int r) {
    return r < count ? head.queries(k.q, k.q_stride, begin + r) : nullptr;
  };
  const int64_t offset = head.head * k.head_dim;
  load_rows<S>(content, S::kQueries, head.width(), static_cast<const T*>(k.content_bias) + offset, query_row);
  load_rows<S>(position, S::kQueries, head.width(), static_cast<const T*>(k.position_bias) + offset,
               query_row);

  float out[S::D / 8][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  clear(out);
  const DropoutFactors dropout(k.dropout);
  const int key_end = head.key_end(begin + count), key_begin = head.key_begin(begin);
  const auto load_keys = [&](T* tile, const void* matrix, int key) {
    load_rows<S>(tile, S::kKeys, head.width(), nullptr, [&](int r) {
      return key + r < key_end ? static_cast<const T*>(matrix) + head.key_offset(key + r) : nullptr;
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
    if (rows < S::kKeys || !head.all_see(begin + warp * 16, key, S::kKeys))
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
    store_fragment(s, weights, S::kOverlayPitch);
    __syncwarp();
    warp_product<Read::rows, Read::columns>(out, weights, S::kOverlayPitch, values, S::kPitch, S::kKeys);
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
    T* to = static_cast<T*>(k.out) + (head.example * k.queries + query) * k.out_stride + offset;
#pragma unroll
    for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = fragment_column(n, e);
        if (column < head.width()) to[column] = from_float<T>(out[n][2 * half + e] * inverse);
      }
  }
}

/// delta[b, h, i] = dO_i · O_i; a warp per row.
template <typename T>
__global__ void relative_delta_kernel(const __grid_constant__ RelativeBackward a) {
  const RelativeAttention& k = a.a.forward;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (row >= k.batch * k.heads * k.queries) return;
  const int64_t query = row % k.queries, head = row / k.queries % k.heads,
                example = row / k.queries / k.heads;
  const int64_t offset = (example * k.queries + query) * k.out_stride + head * k.head_dim;
  float sum = 0;
  for (int64_t c = threadIdx.x % 32; c < k.head_dim; c += 32)
    sum += to_float(static_cast<const T*>(k.out)[offset + c]) *
           to_float(static_cast<const T*>(a.a.d_out)[offset + c]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) a.scratch.delta[row] = sum;
}

/// Turns scores s and products dp = dO · v of a warp's rows into weights and score gradients. `key_of(c)` is
/// the key of column c in row r; kAllSeen: it is seen. (Rows that are no queries have a log-sum-exp of
/// infinity.)
template <typename S, bool kAllSeen, typename KeyOf>
__device__ void tile_gradients(const RelativeBackward& a, const RelativeHead<S>& head,
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
__device__ void score_gradients(const RelativeBackward& a, const RelativeHead<S>& head,
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
  using T = typename S::T;
  extern __shared__ __align__(128) unsigned char memory[];
  const RelativeAttention& k = a.a.forward;
  const RelativeHead<S> head{k, blockIdx.z, blockIdx.y};
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x), begin = tile * S::kQueries;
  const int count = min(S::kQueries, static_cast<int>(k.queries) - begin);
  Carve<S> carve{memory};
  T *content = carve.rows(S::kQueries), *position = carve.rows(S::kQueries), *d_out = carve.rows(S::kQueries),
    *keys = carve.rows(S::kKeys), *values = carve.rows(S::kKeys), *table = carve.rows(S::kBandRows);
  float* band = carve.template take<float>(S::kQueries * S::kScorePitch) + warp * 16 * S::kScorePitch;
  T *gradients = reinterpret_cast<T*>(band), *d_band = gradients + S::kKeys;
  float* sums = carve.template take<float>(2 * S::kWarps * S::D);  // [2, warps, D]

  const auto query_row = [&](int r) {
    return r < count ? head.queries(k.q, k.q_stride, begin + r) : nullptr;
  };
  const int64_t offset = head.head * k.head_dim;
  load_rows<S>(content, S::kQueries, head.width(), static_cast<const T*>(k.content_bias) + offset, query_row);
  load_rows<S>(position, S::kQueries, head.width(), static_cast<const T*>(k.position_bias) + offset,
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
      return r < rows ? static_cast<const T*>(k.k) + head.key_offset(key + r) : nullptr;
    });
    load_rows<S>(values, S::kKeys, head.width(), nullptr, [&](int r) {
      return r < rows ? static_cast<const T*>(k.v) + head.key_offset(key + r) : nullptr;
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
        a, head, dropout, begin + warp * 16, head.all_see(begin + warp * 16, key, S::kKeys),
        [key](int, int c) { return key + c; }, s, dp);
    __syncwarp();  // the f32 band has been read
    store_fragment(dp, gradients, S::kOverlayPitch);
    for (int i = lane; i < 16 * S::kWarpBand; i += 32)
      d_band[i / S::kWarpBand * S::kOverlayPitch + i % S::kWarpBand] = from_float<T>(0.0f);
    __syncwarp();
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = fragment_row(e);
        d_band[row * S::kOverlayPitch + row + S::kKeys - 1 - fragment_column(n, e)] = from_float<T>(dp[n][e]);
      }
    __syncwarp();
    warp_product<Read::rows, Read::columns>(d_content, gradients, S::kOverlayPitch, keys, S::kPitch,
                                            S::kKeys);
    warp_product<Read::rows, Read::columns>(d_position, d_band, S::kOverlayPitch, table + own, S::kPitch,
                                            S::kWarpBand);
  }
#pragma unroll
  for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int query = begin + warp * 16 + fragment_row(e), column = fragment_column(n, e);
      if (query < k.queries && column < head.width())
        static_cast<T*>(a.a.d_q)[(head.example * k.queries + query) * k.q_stride + offset + column] =
            from_float<T>(d_content[n][e] + d_position[n][e]);
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
  const int64_t tiles = static_cast<int64_t>(gridDim.x) * k.batch, block = head.example * gridDim.x + tile;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * head.width(); i += S::kThreads) {
    const int which = i / head.width(), column = i % head.width();
    float sum = 0;
    for (int w = 0; w < S::kWarps; ++w) sum += sums[(which * S::kWarps + w) * S::D + column];
    a.scratch.biases[(which * tiles + block) * head.row_width() + offset + column] = sum;
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
  using T = typename S::T;
  extern __shared__ __align__(128) unsigned char memory[];
  const RelativeAttention& k = a.a.forward;
  const RelativeHead<S> head{k, blockIdx.z, blockIdx.y};
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int key = static_cast<int>(blockIdx.x) * S::kKeys,
            rows = min(S::kKeys, static_cast<int>(k.keys) - key);
  Carve<S> carve{memory};
  T *content = carve.rows(S::kQueries), *position = carve.rows(S::kQueries), *d_out = carve.rows(S::kQueries),
    *keys = carve.rows(S::kKeys), *values = carve.rows(S::kKeys), *table = carve.rows(S::kBandRows);
  float* bands = carve.template take<float>(S::kQueries * S::kScorePitch);
  float* band = bands + warp * 16 * S::kScorePitch;
  T *weights = reinterpret_cast<T*>(bands), *gradients = weights + S::kKeys;
  load_rows<S>(keys, S::kKeys, head.width(), nullptr, [&](int r) {
    return r < rows ? static_cast<const T*>(k.k) + head.key_offset(key + r) : nullptr;
  });
  load_rows<S>(values, S::kKeys, head.width(), nullptr, [&](int r) {
    return r < rows ? static_cast<const T*>(k.v) + head.key_offset(key + r) : nullptr;
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
  for (int begin = key + rows <= head.first() ? end : first; begin < end; begin += S::kQueries) {
    const int count = min(S::kQueries, static_cast<int>(k.queries) - begin);
    const int nearest = head.memory() + begin - (key + S::kKeys - 1);
    const auto query_row = [&](int r) {
      return r < count ? head.queries(k.q, k.q_stride, begin + r) : nullptr;
    };
    __syncthreads();
    load_rows<S>(content, S::kQueries, head.width(), static_cast<const T*>(k.content_bias) + offset,
                 query_row);
    load_rows<S>(position, S::kQueries, head.width(), static_cast<const T*>(k.position_bias) + offset,
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
        a, head, dropout, begin + warp * 16, head.all_see(begin + warp * 16, key, S::kKeys),
        [key](int, int c) { return key + c; }, s, dp);
    __syncwarp();  // the band has been read
    store_fragment(s, weights + warp * 16 * S::kOverlayPitch, S::kOverlayPitch);
    store_fragment(dp, gradients + warp * 16 * S::kOverlayPitch, S::kOverlayPitch);
    __syncthreads();
    warp_product<Read::columns, Read::columns>(d_value, weights + warp * 16, S::kOverlayPitch, d_out,
                                               S::kPitch, S::kQueries);
    warp_product<Read::columns, Read::columns>(d_key, gradients + warp * 16, S::kOverlayPitch, content,
                                               S::kPitch, S::kQueries);
  }
#pragma unroll
  for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = warp * 16 + fragment_row(e), column = fragment_column(n, e);
      if (row >= rows || column >= head.width()) continue;
      static_cast<T*>(a.a.d_k)[head.key_offset(key + row) + column] = from_float<T>(d_key[n][e]);
      static_cast<T*>(a.a.d_v)[head.key_offset(key + row) + column] = from_float<T>(d_value[n][e]);
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
  using T = typename S::T;
  extern __shared__ __align__(128) unsigned char memory[];
  const RelativeAttention& k = a.a.forward;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int from = static_cast<int>(blockIdx.x) * S::kKeys;
  Carve<S> carve{memory};
  T *content = carve.rows(S::kQueries), *position = carve.rows(S::kQueries), *d_out = carve.rows(S::kQueries),
    *keys = carve.rows(S::kBandRows), *values = carve.rows(S::kBandRows), *table = carve.rows(S::kKeys);
  float* bands = carve.template take<float>(S::kQueries * S::kScorePitch);
  float* band = bands + warp * 16 * S::kScorePitch;
  T* gradients = reinterpret_cast<T*>(bands);
  const int64_t head_number = blockIdx.y, offset = head_number * k.head_dim;
  const int own = warp * 16 * S::kPitch;
  float sums[S::D / 8][4];
  clear(sums);
  const DropoutFactors dropout(k.dropout);
  {
    const RelativeHead<S> head{k, 0, head_number};
    load_rows<S>(table, S::kKeys, head.width(), nullptr, [&](int r) { return head.position(from + r); });
  }
  const bool in_window = k.window == 0 || from < k.window;
  const int64_t split = blockIdx.z, last = k.batch * (split + 1) / a.splits;
  for (int64_t example = k.batch * split / a.splits; in_window && example < last; ++example) {
    const RelativeHead<S> head{k, example, head_number};
    // Query i is at this distance from key m + i - t: queries before t - m have none.
    const int first = max(from - head.memory(), 0) / S::kQueries * S::kQueries;
    for (int begin = first; begin < k.queries; begin += S::kQueries) {
      const int count = min(S::kQueries, static_cast<int>(k.queries) - begin);
      const int nearest = head.memory() + begin - (from + S::kKeys - 1);  // key of query 0, largest distance
      if (nearest + S::kBandRows <= head.first()) continue;
      const auto query_row = [&](int r) {
        return r < count ? head.queries(k.q, k.q_stride, begin + r) : nullptr;
      };
      const auto key_row = [&](const void* matrix, int r) {
        const int key = nearest + r;
        return key >= 0 && key < k.keys ? static_cast<const T*>(matrix) + head.key_offset(key) : nullptr;
      };
      __syncthreads();
      load_rows<S>(content, S::kQueries, head.width(), static_cast<const T*>(k.content_bias) + offset,
                   query_row);
      load_rows<S>(position, S::kQueries, head.width(), static_cast<const T*>(k.position_bias) + offset,
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
      const bool all_seen = nearest_key >= head.first() && (k.window == 0 || from + S::kKeys - 1 < k.window);
      score_gradients<S>(
          a, head, dropout, begin + warp * 16, all_seen,
          [&](int r, int c) { return head.memory() + begin + warp * 16 + r - (from + c); }, s, dp);
      __syncwarp();  // the band has been read
      store_fragment(dp, gradients + warp * 16 * S::kOverlayPitch, S::kOverlayPitch);
      __syncthreads();
      warp_product<Read::columns, Read::columns>(sums, gradients + warp * 16, S::kOverlayPitch, position,
                                                 S::kPitch, S::kQueries);
    }
  }
#pragma unroll
  for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int distance = from + warp * 16 + fragment_row(e), column = fragment_column(n, e);
      if (distance < a.all_distances && column < k.head_dim)
        a.scratch.positions[(split * a.all_distances + distance) * k.heads * k.head_dim + offset + column] =
            sums[n][e];
    }
}

/// d_positions from the sums, those of the splits in their order; the last row takes all larger distances.
template <typename T>
__global__ void relative_fold_kernel(const __grid_constant__ RelativeBackward a) {
  const RelativeAttention& k = a.a.forward;
  const int64_t width = k.heads * k.head_dim, i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= k.distances * width) return;
  const int64_t row = i / width, column = i % width;
  const int64_t end = row + 1 == k.distances ? a.all_distances : min(row + 1, a.all_distances);
  float sum = 0;
  for (int64_t t = row; t < end; ++t)
    for (int split = 0; split < a.splits; ++split)
      sum += a.scratch.positions[(split * a.all_distances + t) * width + column];
  static_cast<T*>(a.a.d_positions)[i] = from_float<T>(sum);
}

/// The biases' gradients: sums over the blocks, in their order.
__global__ void relative_bias_kernel(const __grid_constant__ RelativeBackward a, int64_t blocks) {
  const int64_t width = a.a.forward.heads * a.a.forward.head_dim;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= 2 * width) return;
  const int64_t which = i / width, column = i % width;
  auto* target = static_cast<float*>(which == 0 ? a.a.d_content_bias : a.a.d_position_bias) + column;
  const bool accumulate = which == 0 ? a.a.accumulate_content_bias : a.a.accumulate_position_bias;
  float sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += a.scratch.biases[(which * blocks + b) * width + column];
  *target = accumulate ? *target + sum : sum;
}

float scale_of(const RelativeAttention& k) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(k.head_dim)));
}

template <typename Kernel>
void allow_shared(Kernel kernel, int bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "shared memory of relative attention");
}

dim3 grid_of(int64_t tiles, int64_t heads, int64_t batch) {
  return {static_cast<unsigned>(tiles), static_cast<unsigned>(heads), static_cast<unsigned>(batch)};
}

template <typename S>
void launch_forward(const Launch& launch, const RelativeAttention& k) {
  const RelativeForward a{k, scale_of(k)};
  allow_shared(relative_forward_kernel<S>, forward_bytes<S>());
  relative_forward_kernel<S><<<grid_of(ceil_div(k.queries, S::kQueries), k.heads, k.batch), S::kThreads,
                               forward_bytes<S>(), stream_of(launch)>>>(a);
  check_launch("relative_forward_kernel");
}

/// So many that there are enough blocks, and no more: each takes memory. By the shape alone, so that sums do
/// not depend on the device.
int splits_of(const RelativeAttention& k) {
  constexpr int64_t kMostSplits = 8, kEnoughBlocks = 1024, kRows = 64;
  const int64_t wanted = ceil_div(kEnoughBlocks, ceil_div(k.keys, kRows) * k.heads);
  return static_cast<int>(std::min({wanted, k.batch, kMostSplits}));
}

/// Parts of the scratch for tiles of kQueries; `base` may be null to count bytes.
struct ScratchPlan {
  ScratchPlan(const RelativeAttention& k, int query_tile, char* base) {
    const int64_t width = k.heads * k.head_dim, tiles = ceil_div(k.queries, query_tile);
    const auto take = [&](int64_t count) {
      float* piece = reinterpret_cast<float*>(base + bytes);
      bytes += ceil_div(count * 4, 256) * 256;
      return piece;
    };
    parts.delta = take(k.batch * k.heads * k.queries);
    parts.biases = take(2 * k.batch * tiles * width);
    parts.positions = take(splits_of(k) * k.keys * width);
  }
  RelativeScratch parts{};
  int64_t bytes = 0;
};

constexpr int kSmallestTile = 32;  // queries, of all shapes

template <typename S>
void launch_backward(const Launch& launch, const RelativeAttentionBackward& arguments) {
  using T = typename S::T;
  const RelativeAttention& k = arguments.forward;
  const ScratchPlan plan(k, kSmallestTile, static_cast<char*>(arguments.scratch));
  const RelativeBackward a{arguments, scale_of(k), plan.parts, k.keys, splits_of(k)};
  const cudaStream_t stream = stream_of(launch);
  const int64_t query_tiles = ceil_div(k.queries, S::kQueries), width = k.heads * k.head_dim;
  relative_delta_kernel<T>
      <<<static_cast<unsigned>(ceil_div(k.batch * k.heads * k.queries, 8)), 256, 0, stream>>>(a);
  check_launch("relative_delta_kernel");
  allow_shared(relative_query_kernel<S>, query_bytes<S>());
  relative_query_kernel<S>
      <<<grid_of(query_tiles, k.heads, k.batch), S::kThreads, query_bytes<S>(), stream>>>(a);
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
  relative_fold_kernel<T><<<static_cast<unsigned>(ceil_div(k.distances * width, 256)), 256, 0, stream>>>(a);
  check_launch("relative_fold_kernel");
  relative_bias_kernel<<<static_cast<unsigned>(ceil_div(2 * width, 128)), 128, 0, stream>>>(
      a, query_tiles * k.batch);
  check_launch("relative_bias_kernel");
}

/// Calls body.template operator()<Shape>() with the shape for the type and the head's width.
template <typename Body>
void with_shape(const RelativeAttention& k, const Body& body) {
  require(k.head_dim <= 128, "heads of at most 128 channels");
  require(k.type == DType::f32 || k.type == DType::bf16, "element type f32 or bf16");
  if (k.type == DType::f32) {
    if (k.head_dim <= 64) return body.template operator()<RelativeShape<float, 64, 2, 32>>();
    return body.template operator()<RelativeShape<float, 128, 2, 32>>();
  }
  using B = __nv_bfloat16;
  if (k.head_dim <= 32) return body.template operator()<RelativeShape<B, 32, 4, 64>>();
  if (k.head_dim <= 64) return body.template operator()<RelativeShape<B, 64, 4, 64>>();
  body.template operator()<RelativeShape<B, 128, 2, 32>>();
}

}  // namespace

void relative_attention(const Launch& launch, const RelativeAttention& k) {
  if (k.batch * k.queries == 0) return;
  with_shape(k, [&]<typename S>() { launch_forward<S>(launch, k); });
}

void relative_attention_backward(const Launch& launch, const RelativeAttentionBackward& k) {
  if (k.forward.batch * k.forward.queries == 0) return;
  with_shape(k.forward, [&]<typename S>() { launch_backward<S>(launch, k); });
}

int64_t relative_attention_backward_scratch(const RelativeAttention& k) {
  return ScratchPlan(k, kSmallestTile, nullptr).bytes;
}

}  // namespace perceiver::kernels::cuda
