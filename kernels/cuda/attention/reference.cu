// Attention with f32 products and sums for f32 and bf16 and any head width: used for f32 and odd head widths,
// and as the reference for the tensor-core kernels. Deterministic, memory linear in the rows.
//
// A block of 16 x 16 threads works on tiles of 64 queries by 64 keys, 4 x 4 scores to a thread. Products over
// the head width go through shared memory in steps of 32 columns. The results of a tile
// (out, or dK and dV, or dQ) are 64 rows by up to 128 columns in registers, 4 x 8 to a thread; wider heads
// take several blocks, which repeat the scores. Forward: online softmax over the key tiles. Backward: one
// kernel over key tiles for dK and dV, one over query tiles for dQ, after delta = rowsum(dO * O).
//
// Shared memory: two operand tiles of 32 x 68, one of 64 x 128 for values and up to two of 64 x 68 for
// probabilities, all f32: 67 KiB forward, 84 KiB backward. Two blocks fit on an SM.
#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention/attention.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kTile = 64;
constexpr int kDepth = 32;
constexpr int kColumns = 128;
constexpr int kPitch = kTile + 4;  // rows stay aligned to 16 bytes
constexpr int kThreads = 256;

/// Operands of a product over the head width, transposed: [depth, row].
struct Operands {
  float a[kDepth][kPitch];
  float b[kDepth][kPitch];
};

using Square = float[kTile][kPitch];
using Wide = float[kTile][kColumns];

template <typename T>
struct Rows {
  const T* data;
  int64_t stride;
  int64_t count;  // rows beyond these are zero
};

/// Where a block works.
template <typename T>
struct Place {
  const Attention& k;
  int64_t example, head;

  __device__ Rows<T> rows(const void* matrix, int64_t stride, int64_t length, int64_t first) const {
    return {static_cast<const T*>(matrix) + (example * length + first) * stride + head * k.head_dim, stride,
            length - first};
  }
  __device__ Rows<T> queries(const void* matrix, int64_t first) const {
    return rows(matrix, k.q_stride, k.queries, first);
  }
  __device__ Rows<T> outputs(const void* matrix, int64_t first) const {
    return rows(matrix, k.out_stride, k.queries, first);
  }
  __device__ Rows<T> keys(const void* matrix, int64_t first) const {
    return rows(matrix, k.kv_stride, k.keys, first);
  }
  __device__ int64_t first_key() const { return k.first == nullptr ? 0 : max(k.first[example], 0); }
  __device__ int64_t limit(int64_t query) const {
    return query < k.queries ? min(static_cast<int64_t>(k.limit[example * k.queries + query]), k.keys) : 0;
  }
  __device__ int64_t last_limit(int64_t first_query) const {
    return limit(min(first_query + kTile, k.queries) - 1);
  }
  __device__ bool visible(int64_t query, int64_t key, int64_t query_limit) const {
    if (key < first_key() || key >= query_limit) return false;
    return k.key_mask == nullptr || k.key_mask[example * k.keys + key] != 0 ||
           (k.self_visible && key == query);
  }
  __device__ int64_t statistic(int64_t query) const { return (example * k.heads + head) * k.queries + query; }
};

__device__ inline int thread_x() {
  return static_cast<int>(threadIdx.x) % 16;
}
__device__ inline int thread_y() {
  return static_cast<int>(threadIdx.x) / 16;
}

/// s[i][j] = row 4 * thread_y + i of `a` times row 4 * thread_x + j of `b`, over the head width.
template <typename T>
__device__ void product(Rows<T> a, Rows<T> b, int64_t head_dim, Operands& operands, float (&s)[4][4]) {
  for (auto& row : s)
    for (float& x : row) x = 0;
  for (int64_t depth = 0; depth < head_dim; depth += kDepth) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kDepth; i += kThreads) {
      const int row = i / kDepth, c = i % kDepth;
      const bool inside = depth + c < head_dim;
      operands.a[c][row] = inside && row < a.count ? to_float(a.data[row * a.stride + depth + c]) : 0.0f;
      operands.b[c][row] = inside && row < b.count ? to_float(b.data[row * b.stride + depth + c]) : 0.0f;
    }
    __syncthreads();
#pragma unroll 8
    for (int c = 0; c < kDepth; ++c) {
      const float4 x = *reinterpret_cast<const float4*>(&operands.a[c][4 * thread_y()]);
      const float4 y = *reinterpret_cast<const float4*>(&operands.b[c][4 * thread_x()]);
      const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) s[i][j] += xs[i] * ys[j];
    }
  }
}

/// The block's columns, from `column`, of 64 rows; zeros beyond the rows and columns that exist.
template <typename T>
__device__ void load_wide(Rows<T> rows, int64_t column, int64_t head_dim, Wide& wide) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kColumns; i += kThreads) {
    const int row = i / kColumns, c = i % kColumns;
    wide[row][c] = row < rows.count && column + c < head_dim
                       ? to_float(rows.data[row * rows.stride + column + c])
                       : 0.0f;
  }
}

/// sum[i][..] += sum over r of weights[r][4 * thread_y + i] * wide[r][..]; columns 4 * thread_x + 0..3 of
/// each half of the 128.
__device__ inline void accumulate(const Square& weights, const Wide& wide, float (&sum)[4][8]) {
#pragma unroll 4
  for (int r = 0; r < kTile; ++r) {
    const float4 w = *reinterpret_cast<const float4*>(&weights[r][4 * thread_y()]);
    const float4 x = *reinterpret_cast<const float4*>(&wide[r][4 * thread_x()]);
    const float4 y = *reinterpret_cast<const float4*>(&wide[r][kColumns / 2 + 4 * thread_x()]);
    const float ws[4] = {w.x, w.y, w.z, w.w};
    const float xs[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i][j] += ws[i] * xs[j];
  }
}

template <typename T>
__device__ void store(const float (&sum)[4][8], const float (&factor)[4], Rows<T> rows, int64_t column,
                      int64_t head_dim) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 4 * thread_y() + i;
    if (row >= rows.count) continue;
    T* target = const_cast<T*>(rows.data) + row * rows.stride;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int64_t c = column + j / 4 * (kColumns / 2) + 4 * thread_x() + j % 4;
      if (c < head_dim) target[c] = from_float<T>(sum[i][j] * factor[i]);
    }
  }
}

struct ForwardMemory {
  Operands operands;
  Square p;  // [key, query]
  Wide values;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    reference_forward_kernel(const __grid_constant__ Attention k, float scale, int column_blocks) {
  extern __shared__ __align__(16) unsigned char memory[];
  ForwardMemory& shared = *reinterpret_cast<ForwardMemory*>(memory);
  const Place<T> place{k, blockIdx.z, blockIdx.y};
  const int64_t tiles = gridDim.x / column_blocks;
  const int64_t first_query = (tiles - 1 - blockIdx.x / column_blocks) * kTile;
  const int64_t column = static_cast<int64_t>(blockIdx.x % column_blocks) * kColumns;
  float sum[4][8] = {}, total[4] = {}, largest[4];
  int64_t limit[4];
  for (int i = 0; i < 4; ++i) {
    largest[i] = -INFINITY;
    limit[i] = place.limit(first_query + 4 * thread_y() + i);
  }
  const int64_t end = place.last_limit(first_query);
  for (int64_t key = place.first_key(); key < end; key += kTile) {
    float s[4][4];
    product(place.queries(k.q, first_query), place.keys(k.k, key), k.head_dim, shared.operands, s);
    load_wide(place.keys(k.v, key), column, k.head_dim, shared.values);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t query = first_query + 4 * thread_y() + i;
      float new_largest = largest[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool seen = place.visible(query, key + 4 * thread_x() + j, limit[i]);
        s[i][j] = seen ? s[i][j] * scale : -INFINITY;
        new_largest = fmaxf(new_largest, s[i][j]);
      }
#pragma unroll
      for (int offset = 8; offset > 0; offset /= 2)
        new_largest = fmaxf(new_largest, __shfl_xor_sync(0xFFFFFFFFu, new_largest, offset));
      // The maximum of a row without a visible key yet is -infinity; subtracting 0 keeps its scores masked.
      const float shift = new_largest == -INFINITY ? 0.0f : new_largest;
      const float correction = expf(largest[i] - shift);
      largest[i] = new_largest;
      total[i] *= correction;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i][j] *= correction;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float p = expf(s[i][j] - shift);
        total[i] += p;
        shared.p[4 * thread_x() + j][4 * thread_y() + i] = p;
      }
    }
    __syncthreads();
    accumulate(shared.p, shared.values, sum);
    __syncthreads();
  }
  float inverse[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) total[i] += __shfl_xor_sync(0xFFFFFFFFu, total[i], offset);
    const bool blind = !(total[i] > 0);
    inverse[i] = blind ? 0.0f : 1.0f / total[i];
    const int64_t query = first_query + 4 * thread_y() + i;
    if (query < k.queries && column == 0 && thread_x() == 0)
      static_cast<float*>(k.lse)[place.statistic(query)] = blind ? INFINITY : largest[i] + logf(total[i]);
  }
  store(sum, inverse, place.outputs(k.out, first_query), column, k.head_dim);
}

/// delta [batch, heads, queries] = rowsum(dO * O); a warp per row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    reference_delta_kernel(const __grid_constant__ Attention k, const void* d_out, float* delta) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= k.batch * k.heads * k.queries) return;
  const int64_t query = row % k.queries, head = row / k.queries % k.heads,
                example = row / k.queries / k.heads;
  const int64_t offset = (example * k.queries + query) * k.out_stride + head * k.head_dim;
  float sum = 0;
  for (int64_t c = threadIdx.x % 32; c < k.head_dim; c += 32)
    sum += to_float(static_cast<const T*>(k.out)[offset + c]) *
           to_float(static_cast<const T*>(d_out)[offset + c]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[row] = sum;
}

struct BackwardMemory {
  Operands operands;
  Square p;
  Square ds;
  Wide wide;
};

/// The probabilities and the gradients of the scaled scores of one tile of queries (by thread_y) and keys (by
/// thread_x).
template <typename T>
__device__ void gradients(const Place<T>& place, const void* d_out, const float* delta, float scale,
                          int64_t first_query, int64_t first_key, Operands& operands, float (&p)[4][4],
                          float (&ds)[4][4]) {
  const Attention& k = place.k;
  product(place.queries(k.q, first_query), place.keys(k.k, first_key), k.head_dim, operands, p);
  product(place.outputs(d_out, first_query), place.keys(k.v, first_key), k.head_dim, operands, ds);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t query = first_query + 4 * thread_y() + i;
    const bool exists = query < k.queries;
    const int64_t limit = place.limit(query);
    const float lse = exists ? static_cast<const float*>(k.lse)[place.statistic(query)] : INFINITY;
    const float row_delta = exists ? delta[place.statistic(query)] : 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool seen = place.visible(query, first_key + 4 * thread_x() + j, limit);
      p[i][j] = seen ? expf(p[i][j] * scale - lse) : 0.0f;
      ds[i][j] = p[i][j] * (ds[i][j] - row_delta);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    reference_key_gradient_kernel(const __grid_constant__ AttentionBackward a, const float* delta,
                                  float scale, int column_blocks) {
  extern __shared__ __align__(16) unsigned char memory[];
  BackwardMemory& shared = *reinterpret_cast<BackwardMemory*>(memory);
  const Attention& k = a.forward;
  const Place<T> place{k, blockIdx.z, blockIdx.y};
  const int64_t first_key = static_cast<int64_t>(blockIdx.x / column_blocks) * kTile;
  const int64_t column = static_cast<int64_t>(blockIdx.x % column_blocks) * kColumns;
  float d_k[4][8] = {}, d_v[4][8] = {};
  if (first_key + kTile > place.first_key()) {
    for (int64_t query = 0; query < k.queries; query += kTile) {
      if (place.last_limit(query) <= first_key) continue;
      float p[4][4], ds[4][4];
      gradients(place, a.d_out, delta, scale, query, first_key, shared.operands, p, ds);
      load_wide(place.outputs(a.d_out, query), column, k.head_dim, shared.wide);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          shared.p[4 * thread_y() + i][4 * thread_x() + j] = p[i][j];
          shared.ds[4 * thread_y() + i][4 * thread_x() + j] = ds[i][j];
        }
      __syncthreads();
      accumulate(shared.p, shared.wide, d_v);
      __syncthreads();
      load_wide(place.queries(k.q, query), column, k.head_dim, shared.wide);
      __syncthreads();
      accumulate(shared.ds, shared.wide, d_k);
      __syncthreads();
    }
  }
  store(d_v, {1, 1, 1, 1}, place.keys(a.d_v, first_key), column, k.head_dim);
  store(d_k, {scale, scale, scale, scale}, place.keys(a.d_k, first_key), column, k.head_dim);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    reference_query_gradient_kernel(const __grid_constant__ AttentionBackward a, const float* delta,
                                    float scale, int column_blocks) {
  extern __shared__ __align__(16) unsigned char memory[];
  BackwardMemory& shared = *reinterpret_cast<BackwardMemory*>(memory);
  const Attention& k = a.forward;
  const Place<T> place{k, blockIdx.z, blockIdx.y};
  const int64_t first_query = static_cast<int64_t>(blockIdx.x / column_blocks) * kTile;
  const int64_t column = static_cast<int64_t>(blockIdx.x % column_blocks) * kColumns;
  float d_q[4][8] = {};
  const int64_t end = place.last_limit(first_query);
  for (int64_t key = place.first_key(); key < end; key += kTile) {
    float p[4][4], ds[4][4];
    gradients(place, a.d_out, delta, scale, first_query, key, shared.operands, p, ds);
    load_wide(place.keys(k.k, key), column, k.head_dim, shared.wide);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) shared.ds[4 * thread_x() + j][4 * thread_y() + i] = ds[i][j];
    __syncthreads();
    accumulate(shared.ds, shared.wide, d_q);
    __syncthreads();
  }
  store(d_q, {scale, scale, scale, scale}, place.queries(a.d_q, first_query), column, k.head_dim);
}

float scale_of(const Attention& k) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(k.head_dim)));
}

dim3 grid_of(const Attention& k, int64_t rows) {
  return dim3(static_cast<unsigned>(ceil_div(rows, kTile) * ceil_div(k.head_dim, kColumns)),
              static_cast<unsigned>(k.heads), static_cast<unsigned>(k.batch));
}

template <typename Kernel>
void allow_shared_memory(Kernel* kernel, size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of attention");
}

}  // namespace

void attention_reference(const Launch& launch, const Attention& k) {
  with_type(k.type, [&]<typename T>() {
    allow_shared_memory(reference_forward_kernel<T>, sizeof(ForwardMemory));
    reference_forward_kernel<T>
        <<<grid_of(k, k.queries), kThreads, sizeof(ForwardMemory), stream_of(launch)>>>(
            k, scale_of(k), static_cast<int>(ceil_div(k.head_dim, kColumns)));
    check_launch("reference_forward_kernel");
  });
}

int64_t attention_reference_backward_bytes(const AttentionBackward& a) {
  return a.forward.batch * a.forward.heads * a.forward.queries * static_cast<int64_t>(sizeof(float));
}

void attention_reference_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch) {
  const Attention& k = a.forward;
  require(attention_reference_backward_bytes(a) <= scratch.bytes, "scratch memory for attention's backward");
  float* delta = static_cast<float*>(scratch.data);
  const int column_blocks = static_cast<int>(ceil_div(k.head_dim, kColumns));
  const int64_t rows = k.batch * k.heads * k.queries;
  const cudaStream_t stream = stream_of(launch);
  with_type(k.type, [&]<typename T>() {
    allow_shared_memory(reference_key_gradient_kernel<T>, sizeof(BackwardMemory));
    allow_shared_memory(reference_query_gradient_kernel<T>, sizeof(BackwardMemory));
    if (rows > 0) {
      reference_delta_kernel<T>
          <<<static_cast<unsigned>(ceil_div(rows, kThreads / 32)), kThreads, 0, stream>>>(k, a.d_out, delta);
      check_launch("reference_delta_kernel");
      reference_query_gradient_kernel<T><<<grid_of(k, k.queries), kThreads, sizeof(BackwardMemory), stream>>>(
          a, delta, scale_of(k), column_blocks);
      check_launch("reference_query_gradient_kernel");
    }
    if (k.keys == 0) return;
    reference_key_gradient_kernel<T><<<grid_of(k, k.keys), kThreads, sizeof(BackwardMemory), stream>>>(
        a, delta, scale_of(k), column_blocks);
    check_launch("reference_key_gradient_kernel");
  });
}

}  // namespace perceiver::kernels::cuda
