// What the kernels of relative attention share: what a query sees, their arguments and launchers.
//
// Scores have a part by position, (q_i + v) · r_t with t the distance of query i and key n, which moves along
// the diagonals of a tile: its products with successive distances are a band, from which scores are taken
// along diagonals. relative_tiles.cuh (bf16, tensor cores) and relative_float.cuh (f32) say how.
#pragma once

#include "kernels/cuda/norm/dropout.cuh"
#include "kernels/cuda/support/common.cuh"
#include "kernels/relative_attention.h"

namespace perceiver::kernels::cuda {

constexpr float kBlind = INFINITY;  ///< lse of a row that sees nothing

struct RelativeForward {
  RelativeAttention k;
  float scale;
  bool wide;  ///< rows of all matrices are whole pieces of 16 bytes, aligned to as much
};

/// Where backward keeps what is needed or added up later.
struct RelativeScratch {
  float* delta;             // f32 only: [batch, heads, queries], rowsum(dO * O)
  __nv_bfloat16* content;   // bf16 only: q + u [batch, heads, padded queries, D]
  __nv_bfloat16* position;  // likewise q + v
  float2* statistics;       // bf16 only: (lse in base 2, delta) [batch, heads, padded queries]
  float* content_biases;    // sums for d_content_bias [content_parts, heads * head_dim]
  float* position_biases;   // sums for d_position_bias [position_parts, heads * head_dim]
  float* positions;         // [splits, keys, heads * head_dim], sums for each distance of the pass
  int64_t padded_queries;
  int64_t content_parts, position_parts;
};

struct RelativeBackward {
  RelativeAttentionBackward a;
  float scale;
  bool wide;
  RelativeScratch scratch;
  int splits;  ///< of the examples, in the sums of the positions
};

/// Numbers [from, from + count).
struct Range {
  int from;
  unsigned count;
  __device__ static Range between(int from, int end) {
    return {from, static_cast<unsigned>(max(end - from, 0))};
  }
  __device__ bool has(int x) const { return static_cast<unsigned>(x - from) < count; }
};

/// One head of one example.
template <typename T>
struct RelativeHead {
  const RelativeAttention& k;
  int64_t example, head;
  int first;  ///< key

  __device__ RelativeHead(const RelativeAttention& arguments, int64_t of_example, int64_t of_head)
      : k(arguments), head(of_head) {
    move_to(of_example);
  }
  __device__ void move_to(int64_t to) {
    example = to;
    first = k.first == nullptr ? 0 : max(k.first[to], 0);
  }
  __device__ int memory() const { return static_cast<int>(k.keys - k.queries); }
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
  __device__ bool sees(int query, int key) const { return keys_of(query).has(key); }
  /// Keys that a query sees; none if it is beyond the last.
  __device__ Range keys_of(int query) const {
    const int own = memory() + query, far = k.window == 0 ? 0 : own - static_cast<int>(k.window) + 1;
    return Range::between(max(first, far), query < k.queries ? own + 1 : 0);
  }
  /// Queries that see a key.
  __device__ Range queries_of(int key) const {
    const int from = key - memory(), count = static_cast<int>(k.queries);
    const int end = k.window == 0 ? count : min(count, from + static_cast<int>(k.window));
    return Range::between(max(from, 0), key < first ? 0 : end);
  }
  /// Queries that see a key at a distance.
  __device__ Range queries_at(int distance) const {
    const bool seen = k.window == 0 || distance < k.window;
    return Range::between(max(distance - memory() + first, 0), seen ? static_cast<int>(k.queries) : 0);
  }
  /// Whether `queries` queries from `query` on see all of `keys` keys from `key` on; queries beyond the last
  /// do not count.
  __device__ bool all_see(int query, int queries, int key, int keys) const {
    const int nearest = memory() + query - (key + keys - 1), farthest = memory() + query + queries - 1 - key;
    return key >= first && nearest >= 0 && (k.window == 0 || farthest < k.window);
  }
  __device__ int64_t lse_row(int query) const { return (example * k.heads + head) * k.queries + query; }
  /// Number of a weight's element in its dropout mask.
  __device__ int64_t element(int query, int key) const { return lse_row(query) * k.keys + key; }
  /// Keys that queries [begin, begin + count) may see: [key_begin, key_end).
  __device__ int key_begin(int begin) const {
    return k.window == 0 ? first : max(first, memory() + begin - static_cast<int>(k.window) + 1);
  }
  __device__ int key_end(int end) const { return min(memory() + end, static_cast<int>(k.keys)); }
};

template <typename Kernel>
void allow_shared(Kernel kernel, int bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "shared memory of relative attention");
}

inline dim3 grid_of(int64_t tiles, int64_t heads, int64_t batch) {
  return {static_cast<unsigned>(tiles), static_cast<unsigned>(heads), static_cast<unsigned>(batch)};
}

/// f32, head_dim <= 128.
void relative_forward_float(const Launch& launch, const RelativeForward& a);
/// Everything but the sums over parts and splits.
void relative_backward_float(const Launch& launch, const RelativeBackward& a);

/// bf16, head_dim <= 128.
void relative_forward_tensor(const Launch& launch, const RelativeForward& a);
/// q + u, q + v and the statistics, to the scratch.
void relative_prepare_tensor(const Launch& launch, const RelativeBackward& a);
void relative_query_tensor(const Launch& launch, const RelativeBackward& a);     // d_q
void relative_key_tensor(const Launch& launch, const RelativeBackward& a);       // d_k, d_v, content biases
void relative_position_tensor(const Launch& launch, const RelativeBackward& a);  // positions, their biases

/// Rows of a block of keys or distances in the bf16 kernels, queries of one in the f32 kernels, and the
/// multiple to which the scratch pads queries.
constexpr int64_t kTensorRows = 128, kFloatQueries = 32, kQueryPadding = 128;

}  // namespace perceiver::kernels::cuda
