// Attention of a few queries over the slots' rings: rows are cut into parts so that one sequence fills the
// device, and a second kernel joins the parts.
//
// The number of parts depends on the ring's capacity alone, so that a slot's result does not depend on the
// number of slots. A block takes one part of one head and query: scores of a tile of keys by warps, then each
// thread sums its channels of the values; online softmax over the tiles.
#include <cfloat>

#include "kernels/cuda/vector.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kTile = 128, kMostWidth = 512;
constexpr int kChannels = kMostWidth / kThreads;
constexpr int64_t kMostParts = 64, kLeastRows = 256;

struct Parts {
  int64_t count, rows;
  explicit Parts(int64_t capacity) {
    rows = kLeastRows;
    if (ceil_div(capacity, rows) > kMostParts) rows = ceil_div(ceil_div(capacity, kMostParts), kTile) * kTile;
    count = ceil_div(capacity, rows);
  }
};

/// What a part leaves behind: largest score, sum of weights, weighted sum of values.
__host__ __device__ inline int64_t partial_size(int64_t head_dim) {
  return head_dim + 2;
}

/// Grid: parts, heads, rows of queries (from first_row on).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    part_kernel(RingAttention k, int64_t part_rows, int64_t first_row, float* partials) {
  __shared__ float q[kMostWidth], scores[kTile];
  const int64_t d = k.head_dim, width = k.heads * d, head = blockIdx.y, row = first_row + blockIdx.z;
  const int64_t slot = row / k.queries, count = k.count[slot];
  const int64_t begin = blockIdx.x * part_rows, end = min(count, begin + part_rows);
  if (begin >= end) return;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const float scale = rsqrtf(static_cast<float>(d));
  for (int64_t c = threadIdx.x; c < d; c += kThreads)
    q[c] = scale * to_float(static_cast<const T*>(k.q)[row * k.q_stride + head * d + c]);
  const T* ring = static_cast<const T*>(k.rings) + slot * k.capacity * 2 * width + head * d;
  float largest = -FLT_MAX, sum = 0, values[kChannels] = {};
  for (int64_t first = begin; first < end; first += kTile) {
    const int keys = static_cast<int>(min(int64_t{kTile}, end - first));
    __syncthreads();
    for (int n = warp; n < keys; n += kWarps) {
      const T* key = ring + (first + n) * 2 * width;
      float score = 0;
      for (int64_t c = lane; c < d; c += 32) score = fmaf(q[c], to_float(key[c]), score);
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
      for (int n = 0; n < keys; ++n)
        total = fmaf(scores[n], to_float(ring[(first + n) * 2 * width + width + c]), total);
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
__global__ void __launch_bounds__(kThreads)
    join_kernel(RingAttention k, int64_t parts, int64_t part_rows, int64_t first_row, const float* partials) {
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
}

}  // namespace

void ring_attention(const Launch& launch, const RingAttention& k) {
  require(k.table == nullptr, "rings of keys and values");
  require(k.head_dim <= kMostWidth, "heads of at most 512 channels");
  const Parts parts(k.capacity);
  const int64_t row_bytes = k.heads * parts.count * partial_size(k.head_dim) * int64_t{sizeof(float)};
  const int64_t rows = k.slots * k.queries, at_once = std::min(rows, launch.workspace_bytes / row_bytes);
  require(at_once > 0, "a workspace for the parts of one row");
  auto* partials = static_cast<float*>(launch.workspace);
  with_type(k.type, [&]<typename T>() {
    for (int64_t first = 0; first < rows; first += at_once) {
      const auto count = static_cast<unsigned>(std::min(at_once, rows - first));
      const auto heads = static_cast<unsigned>(k.heads);
      part_kernel<T>
          <<<dim3(static_cast<unsigned>(parts.count), heads, count), kThreads, 0, stream_of(launch)>>>(
              k, parts.rows, first, partials);
      join_kernel<T><<<dim3(heads, count), kThreads, 0, stream_of(launch)>>>(k, parts.count, parts.rows,
                                                                             first, partials);
    }
  });
  check_launch("ring_attention");
}

}  // namespace perceiver::kernels::cuda
