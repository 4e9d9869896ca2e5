// Relative attention (Transformer-XL) forward in f32, tiled, without a score matrix: a block has a tile of
// queries of one head and goes over the keys they see: band of q + v with the distances, scores, online
// softmax, weights times values. relative_float.cuh has the tiles.
//
// Shared memory, D = 64, 32 queries by 32 keys: 2 * 32 + 2 * 32 + 64 rows and the band, 62 KiB.
#include <cmath>

#include "kernels/cuda/attention/relative_float.cuh"

namespace perceiver::kernels::cuda {
namespace {

using namespace float_tiles;

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
template <typename S>
void launch_forward(const Launch& launch, const RelativeForward& a) {
  allow_shared(relative_forward_kernel<S>, forward_bytes<S>());
  relative_forward_kernel<S><<<grid_of(ceil_div(a.k.queries, S::kQueries), a.k.heads, a.k.batch), S::kThreads,
                               forward_bytes<S>(), stream_of(launch)>>>(a);
  check_launch("relative_forward_kernel");
}
}  // namespace

void relative_forward_float(const Launch& launch, const RelativeForward& a) {
  if (a.k.head_dim <= 64) return launch_forward<FloatShape<64, 2, 32>>(launch, a);
  launch_forward<FloatShape<128, 2, 32>>(launch, a);
}
}  // namespace perceiver::kernels::cuda
