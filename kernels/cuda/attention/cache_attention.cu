// Attention of a few queries over the slots' KV caches: the rows are split into parts (split-KV) so that one
// sequence fills the GPU, and a second kernel combines the partial results.
//
// The number of parts depends on the cache's capacity alone, so a slot's result does not depend on the number
// of slots. A block takes one part of one head and query: scores of a tile of keys by warps, then each thread
// sums its channels of the values; online softmax over the tiles.
//
// Contexts kept as tokens: table_attention.cu computes the parts where its tables fit shared memory. For
// larger vocabularies a position's row is that of its token in the table, and the query is rotated back by
// the key's position, since the table's keys are not rotated.
#include <cfloat>

#include "kernels/attention.h"
#include "kernels/cuda/attention/cache_attention.cuh"
#include "kernels/cuda/support/narrow.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/projection.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kTile = 128, kMostWidth = 512;
constexpr int kChannels = kMostWidth / kThreads;
constexpr int64_t kMostParts = 64, kLeastRows = 256;

KvSplits cache_splits(int64_t capacity) {
  int64_t rows = kLeastRows;
  if (ceil_div(capacity, rows) > kMostParts) rows = ceil_div(ceil_div(capacity, kMostParts), kTile) * kTile;
  return {ceil_div(capacity, rows), rows};
}

/// Keys and values of one slot and head, read from the KV cache, whose elements are T.
template <typename T>
class RingRows {
 public:
  __device__ RingRows(const CacheAttention& k, int64_t slot, int64_t head)
      : stride_(2 * k.heads * k.head_dim),
        rows_(static_cast<const T*>(k.cache) + slot * k.capacity * stride_ + head * k.head_dim) {}
  __device__ const T* key(int64_t n) const { return rows_ + n * stride_; }
  __device__ const T* value(int64_t n) const { return key(n) + stride_ / 2; }
  __device__ float score(const float* q, int64_t n, int64_t channel) const {
    return q[channel] * to_float(key(n)[channel]);
  }

 private:
  int64_t stride_;
  const T* rows_;
};

/// As rows of the table.
template <typename T>
class TableRows {
 public:
  __device__ TableRows(const CacheAttention& k, int64_t slot, int64_t head)
      : stride_(2 * k.heads * k.head_dim),
        bands_(head < k.rotary_heads ? k.bands : 0),
        row_bands_(k.bands),
        table_(static_cast<const T*>(k.table) + head * k.head_dim),
        tokens_(k.tokens + slot * k.capacity),
        positions_(k.positions + slot * k.capacity),
        cosine_(static_cast<const float*>(k.cosine)),
        sine_(static_cast<const float*>(k.sine)) {}
  __device__ const T* key(int64_t n) const { return table_ + tokens_[n] * stride_; }
  __device__ const T* value(int64_t n) const { return key(n) + stride_ / 2; }
  /// The query's value at one channel of the key, rotated back by the key's position.
  __device__ float score(const float* q, int64_t n, int64_t channel) const {
    float x = q[channel];
    if (channel < 2 * bands_) {
      const int position = positions_[n];
      const int64_t angle = abs(position) * row_bands_ + channel / 2;
      const float sine = (channel % 2 == 0) == (position >= 0) ? sine_[angle] : -sine_[angle];
      x = fmaf(cosine_[angle], x, sine * q[channel ^ 1]);
    }
    return x * to_float(key(n)[channel]);
  }

 private:
  int64_t stride_, bands_, row_bands_;
  const T* table_;
  const int32_t *tokens_, *positions_;
  const float *cosine_, *sine_;
};

/// Grid: parts, heads, rows of queries (from first_row on).
template <typename T, typename Rows>
__global__ void __launch_bounds__(kThreads)
    part_kernel(CacheAttention k, int64_t part_rows, int64_t first_row, float* partials) {
  __shared__ float q[kMostWidth], scores[kTile];
  const int64_t d = k.head_dim, head = blockIdx.y, row = first_row + blockIdx.z;
  const int64_t slot = row / k.queries, count = k.count[slot];
  const int64_t begin = blockIdx.x * part_rows, end = min(count, begin + part_rows);
  if (begin >= end) return;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const float scale = rsqrtf(static_cast<float>(d));
  for (int64_t c = threadIdx.x; c < d; c += kThreads)
    q[c] = scale * to_float(static_cast<const T*>(k.q)[row * k.q_stride + head * d + c]);
  const Rows rows(k, slot, head);
  float largest = -FLT_MAX, sum = 0, values[kChannels] = {};
  for (int64_t first = begin; first < end; first += kTile) {
    const int keys = static_cast<int>(min(int64_t{kTile}, end - first));
    __syncthreads();
    for (int n = warp; n < keys; n += kWarps) {
      float score = 0;
      for (int64_t c = lane; c < d; c += 32) score += rows.score(q, first + n, c);
      score = warp_sum(score);
      if (lane == 0) scores[n] = score;
    }
    __syncthreads();
    float tile_largest = -FLT_MAX;
    for (int n = lane; n < keys; n += 32) tile_largest = fmaxf(tile_largest, scores[n]);
    const float now = fmaxf(largest, warp_max(tile_largest)), shrink = __expf(largest - now);
    largest = now;
    __syncthreads();
    for (int n = static_cast<int>(threadIdx.x); n < keys; n += kThreads)
      scores[n] = __expf(scores[n] - largest);
    __syncthreads();
    float tile_sum = 0;
    for (int n = lane; n < keys; n += 32) tile_sum += scores[n];
    sum = sum * shrink + warp_sum(tile_sum);
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      const int64_t c = threadIdx.x + j * kThreads;
      if (c >= d) break;
      float total = values[j] * shrink;
      for (int n = 0; n < keys; ++n) total = fmaf(scores[n], to_float(rows.value(first + n)[c]), total);
      values[j] = total;
    }
  }
  float* partial =
      partials + ((int64_t{blockIdx.z} * k.heads + head) * gridDim.x + blockIdx.x) * partial_size(d);
  if (threadIdx.x == 0) partial[0] = largest, partial[1] = sum;
#pragma unroll
  for (int j = 0; j < kChannels; ++j) {
    const int64_t c = threadIdx.x + j * kThreads;
    if (c < d) partial[2 + c] = values[j];
  }
}

/// Grid: heads, rows of queries.
template <typename T>
__global__ void __launch_bounds__(kThreads) combine_kernel(CacheAttention k, int64_t parts, int64_t part_rows,
                                                           int64_t first_row, const float* partials) {
  const int64_t d = k.head_dim, head = blockIdx.x, row = first_row + blockIdx.y;
  const int64_t used = (k.count[row / k.queries] + part_rows - 1) / part_rows, size = partial_size(d);
  const float* own = partials + (int64_t{blockIdx.y} * k.heads + head) * parts * size;
  float largest = -FLT_MAX, sum = 0;
  for (int64_t p = 0; p < used; ++p) largest = fmaxf(largest, own[p * size]);
  for (int64_t p = 0; p < used; ++p) sum += own[p * size + 1] * __expf(own[p * size] - largest);
  T* out = static_cast<T*>(k.out) + row * k.out_stride + head * d;
  for (int64_t c = threadIdx.x; c < d; c += kThreads) {
    float total = 0;
    for (int64_t p = 0; p < used; ++p)
      total = fmaf(own[p * size + 2 + c], __expf(own[p * size] - largest), total);
    out[c] = from_float<T>(used > 0 ? total / sum : 0.0f);
  }
  if (k.lse == nullptr || threadIdx.x != 0) return;
  static_cast<float*>(k.lse)[(row / k.queries * k.heads + head) * k.queries + row % k.queries] =
      used > 0 ? largest + logf(sum) : INFINITY;
}

/// Enqueues the parts of `rows` rows of queries.
void attend_splits(const Launch& launch, const CacheAttention& k, const KvSplits& parts, int64_t first_row,
                   int64_t rows, float* partials) {
  const dim3 grid(static_cast<unsigned>(parts.count), static_cast<unsigned>(k.heads),
                  static_cast<unsigned>(rows));
  with_type(k.type, [&]<typename T>() {
    const auto kernel = k.table != nullptr            ? part_kernel<T, TableRows<T>>
                        : k.cache_type == DType::e4m3 ? part_kernel<T, RingRows<E4m3>>
                                                      : part_kernel<T, RingRows<T>>;
    kernel<<<grid, kThreads, 0, stream_of(launch)>>>(k, parts.rows, first_row, partials);
  });
}

void combine_splits(const Launch& launch, const CacheAttention& k, const KvSplits& parts, int64_t first_row,
                    int64_t rows, const float* partials) {
  const dim3 grid(static_cast<unsigned>(k.heads), static_cast<unsigned>(rows));
  with_type(k.type, [&]<typename T>() {
    combine_kernel<T>
        <<<grid, kThreads, 0, stream_of(launch)>>>(k, parts.count, parts.rows, first_row, partials);
  });
}

}  // namespace

void cache_attention(const Launch& launch, const CacheAttention& k) {
  require(k.head_dim <= kMostWidth, "heads of at most 512 channels");
  require(k.table != nullptr || k.cache_type == k.type || k.cache_type == DType::e4m3,
          "a cache in the type of the queries or in e4m3");
  KvSplits parts = k.table == nullptr ? KvSplits{0, 0} : table_splits(launch, k);
  const bool mixes = parts.count > 0;
  if (!mixes) parts = cache_splits(k.capacity);
  const int64_t row_bytes = k.heads * parts.count * partial_size(k.head_dim) * int64_t{sizeof(float)};
  const int64_t rows = k.slots * k.queries, at_once = std::min(rows, launch.workspace_bytes / row_bytes);
  require(at_once > 0, "a workspace for the parts of one row");
  auto* partials = static_cast<float*>(launch.workspace);
  for (int64_t first = 0; first < rows; first += at_once) {
    const int64_t count = std::min(at_once, rows - first);
    if (mixes) {
      attend_table_splits(launch, k, parts, first, count, partials);
    } else {
      attend_splits(launch, k, parts, first, count, partials);
    }
    combine_splits(launch, k, parts, first, count, partials);
  }
  check_launch("cache_attention");
}

}  // namespace perceiver::kernels::cuda
