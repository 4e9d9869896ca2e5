// Attention over contexts that are kept as tokens, where keys and values are rows of a table, by mixed tables
// in shared memory. The algebra is that of kernels/cpu/table_attention.cpp: with q rotated, the score of
// token t at position p is still[t] + sum over bands i of cos(p f_i) a[t, i] + sin(p f_i) b[t, i]. No row of
// keys or values is read for a position: only 4 bytes of token, 4 of position, and cosines and sines, which
// the heads of a block share.
//
// A block takes up to 4 heads of a query and a part of the context. It mixes the tables of its heads, then
// goes over its part in tiles of 512 positions, one for each thread. 8 lanes read the mixed row of a position
// together, 128 bytes without bank conflicts at 16 bands, and hold the angles of 2 bands for 8 positions in
// registers, for all heads. The weights of a tile are integers, whose sums by token do not depend on the
// order of the atomics: 2^23 - 1 stands for the tile's largest, so that 512 of them fit 32 bits. They are
// then added, as floats times the tile's exponential, to those of earlier tiles. A tile's rounding errors are
// relative to its own largest weight, so never more than 512 / 2^24 of its sum. Finally each token's value is
// read once. cache_attention.cu combines the parts.
//
// The number of parts depends on the shapes and the device alone, so a slot's result does not depend on the
// number of slots.
//
// Shared memory: for each head and token 8 bytes a band and 12 more, 36 KB for a head of 259 tokens and 16
// bands, plus 8.25 KB. Where not even one head fits, cache_attention.cu reads rows of the table.
//
// Cost of 131,072 positions with 16 heads of 16 bands, estimated: shared memory 128 bytes a head and
// position, 268 MB or 9 us over 132 SMs; shuffles and atomics on the same path half as much
// again.
#include "kernels/cuda/attention/table_attention.cuh"

#include "kernels/attention.h"
#include "kernels/cuda/attention/cache_attention.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kLeastRows = 512;  // fewer cost less than mixing the tables
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

struct BlockBarrier {
  __device__ static void wait() { __syncthreads(); }
};

TableLayout layout_of(const CacheAttention& k, int heads) {
  return {k.vocabulary, k.head_dim, k.bands, heads, kThreads / 32};
}

/// Heads of a block, all blocks about alike; 0 where not even one head fits.
int heads_of_block(const Launch& launch, const CacheAttention& k) {
  int limit = 0;
  check(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, launch.device.index),
        "device attribute");
  auto most = static_cast<int>(std::min<int64_t>(kTableHeads, k.heads));
  while (most > 0 && layout_of(k, most).bytes > limit) --most;
  if (most == 0) return 0;
  return static_cast<int>(ceil_div(k.heads, ceil_div(k.heads, most)));
}

template <typename T>
__device__ TableContext<T> context_of(const CacheAttention& k, int64_t slot, int64_t first_head, int heads,
                                      bool wide_rows, bool wide_angles) {
  const auto clamped = [heads](int64_t x) {
    return static_cast<int>(max(int64_t{0}, min(x, int64_t{heads})));
  };
  TableContext<T> c;
  c.keys = static_cast<const T*>(k.table) + first_head * k.head_dim;
  c.stride = 2 * k.heads * k.head_dim;
  c.tokens = k.tokens + slot * k.capacity, c.positions = k.positions + slot * k.capacity;
  c.cosine = static_cast<const float*>(k.cosine), c.sine = static_cast<const float*>(k.sine);
  c.vocabulary = static_cast<int>(k.vocabulary);
  c.head_dim = static_cast<int>(k.head_dim), c.bands = static_cast<int>(k.bands);
  c.heads = clamped(k.heads - first_head), c.rotary_heads = clamped(k.rotary_heads - first_head);
  c.wide_rows = wide_rows, c.wide_angles = wide_angles;
  return c;
}

/// Grid: parts, groups of heads, rows of queries (from first_row on).
template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    table_kernel(CacheAttention k, TableLayout layout, int group, bool wide_rows, bool wide_angles,
                 int64_t part_rows, int64_t first_row, float* partials) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t d = k.head_dim, first_head = int64_t{blockIdx.y} * group, row = first_row + blockIdx.z;
  const int64_t slot = row / k.queries, begin = blockIdx.x * part_rows;
  const int64_t end = min(int64_t{k.count[slot]}, begin + part_rows);
  if (begin >= end) return;
  const TableContext<T> context = context_of<T>(k, slot, first_head, group, wide_rows, wide_angles);
  TableAttention<T, kThreads, BlockBarrier> attention(context, layout, memory);
  const float scale = kLog2E * rsqrtf(static_cast<float>(d));
  const T* q = static_cast<const T*>(k.q) + row * k.q_stride + first_head * d;
  attention.mix([=](int head, int channel) { return scale * to_float(q[head * d + channel]); });
  attention.attend(static_cast<int>(begin), static_cast<int>(end));
  float* partial =
      partials + ((int64_t{blockIdx.z} * k.heads + first_head) * gridDim.x + blockIdx.x) * partial_size(d);
  const int64_t head_stride = gridDim.x * partial_size(d);
  attention.finish(
      [=](int head, int channel, float2 x) {
        float* to = partial + head * head_stride + 2 + channel;
        to[0] = x.x;
        if (channel + 1 < d) to[1] = x.y;
      },
      [=](int head, float largest, float sum) {
        float* to = partial + head * head_stride;
        to[0] = largest * kLn2, to[1] = sum;
      });
}

}  // namespace

KvSplits table_splits(const Launch& launch, const CacheAttention& k) {
  const int group = heads_of_block(launch, k);
  if (group == 0) return {0, 0};
  const int64_t most = std::max<int64_t>(1, launch.sm_count / ceil_div(k.heads, group));
  const int64_t rows = ceil_div(k.capacity, std::min(most, ceil_div(k.capacity, kLeastRows)));
  return {ceil_div(k.capacity, rows), rows};
}

void attend_table_splits(const Launch& launch, const CacheAttention& k, const KvSplits& parts,
                         int64_t first_row, int64_t rows, float* partials) {
  const int group = heads_of_block(launch, k);
  const TableLayout layout = layout_of(k, group);
  const dim3 grid(static_cast<unsigned>(parts.count), static_cast<unsigned>(ceil_div(k.heads, group)),
                  static_cast<unsigned>(rows));
  const bool wide_rows = k.head_dim % kChunk == 0 && aligned({k.table});
  const bool wide_angles = k.bands % 2 == 0 && aligned({k.cosine, k.sine});
  with_type(k.type, [&]<typename T>() {
    check(cudaFuncSetAttribute(table_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(layout.bytes)),
          "shared memory of cache_attention");
    table_kernel<T><<<grid, kThreads, static_cast<size_t>(layout.bytes), stream_of(launch)>>>(
        k, layout, group, wide_rows, wide_angles, parts.rows, first_row, partials);
  });
}

}  // namespace perceiver::kernels::cuda
