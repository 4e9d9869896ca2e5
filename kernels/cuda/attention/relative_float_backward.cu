// Relative attention (Transformer-XL) backward in f32, tiled, without a score matrix; relative_float.cuh has
// the tiles. Deterministic: every sum has a fixed order. Four kernels, of which three compute the scores
// again:
//
//   delta      rowsum(dO * O);
//   d_q        a block per tile of queries; also the tile's sums for the biases;
//   d_k, d_v   a block per tile of keys, over the queries that see them;
//   positions  a block per tile of distances, over examples and queries. Keys and distances change roles: a
//              tile of queries by distances needs a band of keys and values.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention/relative_float.cuh"

namespace perceiver::kernels::cuda {
namespace {

using namespace float_tiles;

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

void relative_backward_float(const Launch& launch, const RelativeBackward& a) {
  if (a.a.forward.head_dim <= 64) return launch_backward<FloatShape<64, 2, 32>>(launch, a);
  launch_backward<FloatShape<128, 2, 32>>(launch, a);
}

}  // namespace perceiver::kernels::cuda
