// Relative attention (Transformer-XL): kernels by element type, and the last sums of backward. No score
// matrix; deterministic: every sum has a fixed order.
//
// Backward in bf16 has three kernels: d_q (relative_query.cu), d_k and d_v (relative_key.cu), positions
// (relative_position.cu). Each computes scores and dP again, 10.5 of 15.5 products of a tile, where once
// would take 3. Keeping them would take a score matrix; adding d_q or the positions up from another kernel
// takes a read and a write of f32 sums in memory per tile.
#include "kernels/cuda/attention/relative_attention.cuh"

#include <algorithm>
#include <cmath>

namespace perceiver::kernels::cuda {
namespace {

/// d_positions from the sums, those of the splits in their order; the last row takes all larger distances.
template <typename T>
__global__ void relative_fold_kernel(const __grid_constant__ RelativeBackward a) {
  const RelativeAttention& k = a.a.forward;
  const int64_t width = k.heads * k.head_dim, i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= k.distances * width) return;
  const int64_t row = i / width, column = i % width;
  const int64_t end = row + 1 == k.distances ? k.keys : min(row + 1, k.keys);
  float sum = 0;
  for (int64_t t = row; t < end; ++t)
    for (int split = 0; split < a.splits; ++split)
      sum += a.scratch.positions[(split * k.keys + t) * width + column];
  static_cast<T*>(a.a.d_positions)[i] = from_float<T>(sum);
}

constexpr int kBiasColumns = 32, kBiasSlices = 8;

/// The biases' gradients: sums over parts, in slices whose sums are added in their order. A block per 32
/// columns of a bias.
__global__ void __launch_bounds__(kBiasColumns* kBiasSlices)
    relative_bias_kernel(const __grid_constant__ RelativeBackward a) {
  __shared__ float sums[kBiasColumns * kBiasSlices];
  const int64_t width = a.a.forward.heads * a.a.forward.head_dim;
  const bool content = blockIdx.y == 0;
  const int lane = static_cast<int>(threadIdx.x) % kBiasColumns;
  const int64_t slice = threadIdx.x / kBiasColumns, column = int64_t{blockIdx.x} * kBiasColumns + lane;
  const float* from = content ? a.scratch.content_biases : a.scratch.position_biases;
  const int64_t parts = content ? a.scratch.content_parts : a.scratch.position_parts;
  float sum = 0;
  if (column < width)
#pragma unroll 8
    for (int64_t part = slice; part < parts; part += kBiasSlices) sum += from[part * width + column];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (slice > 0 || column >= width) return;
  for (int other = 1; other < kBiasSlices; ++other) sum += sums[other * kBiasColumns + lane];
  float* target = static_cast<float*>(content ? a.a.d_content_bias : a.a.d_position_bias) + column;
  const bool accumulate = content ? a.a.accumulate_content_bias : a.a.accumulate_position_bias;
  *target = accumulate ? *target + sum : sum;
}

float scale_of(const RelativeAttention& k) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(k.head_dim)));
}

/// Whether rows of all matrices are whole pieces of 16 bytes, aligned to as much.
bool is_wide(const RelativeAttention& k, std::initializer_list<const void*> gradients) {
  const int64_t piece = 16 / (k.type == DType::f32 ? 4 : 2);
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool operands =
      aligned(k.q) && aligned(k.k) && aligned(k.v) && aligned(k.positions) && aligned(k.out);
  return operands && std::all_of(gradients.begin(), gradients.end(), aligned) && k.head_dim % piece == 0 &&
         k.q_stride % piece == 0 && k.kv_stride % piece == 0 && k.out_stride % piece == 0;
}

/// So many that there are enough blocks, and no more: each takes memory. By the shape alone, so that sums do
/// not depend on the device.
int splits_of(const RelativeAttention& k) {
  constexpr int64_t kMostSplits = 8, kEnoughBlocks = 2048;
  const int64_t wanted = ceil_div(kEnoughBlocks, ceil_div(k.keys, kTensorRows) * k.heads);
  return static_cast<int>(std::min({wanted, k.batch, kMostSplits}));
}

/// Parts of the scratch; `base` may be null to count bytes.
struct ScratchPlan {
  ScratchPlan(const RelativeAttention& k, char* base) {
    const int64_t width = k.heads * k.head_dim, rows = k.batch * k.heads;
    const auto take = [&]<typename T>(T*& piece, int64_t count) {
      piece = reinterpret_cast<T*>(base + bytes);
      bytes += ceil_div(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
    };
    if (k.type == DType::f32) {
      parts.content_parts = parts.position_parts = k.batch * ceil_div(k.queries, kFloatQueries);
      take(parts.delta, rows * k.queries);
    } else {
      const int64_t padded = k.head_dim <= 32 ? 32 : k.head_dim <= 64 ? 64 : 128;
      const int64_t tiles = ceil_div(k.keys, kTensorRows);
      parts.content_parts = k.batch * tiles;
      parts.position_parts = splits_of(k) * tiles;
      parts.padded_queries = ceil_div(k.queries, kQueryPadding) * kQueryPadding;
      take(parts.content, rows * parts.padded_queries * padded);
      take(parts.position, rows * parts.padded_queries * padded);
      take(parts.statistics, rows * parts.padded_queries);
    }
    take(parts.content_biases, parts.content_parts * width);
    take(parts.position_biases, parts.position_parts * width);
    take(parts.positions, splits_of(k) * k.keys * width);
  }
  RelativeScratch parts{};
  int64_t bytes = 0;
};

void check_shape(const RelativeAttention& k) {
  require(k.head_dim <= 128, "heads of at most 128 channels");
  require(k.type == DType::f32 || k.type == DType::bf16, "element type f32 or bf16");
}

template <typename T>
void add_up(const Launch& launch, const RelativeBackward& a) {
  const RelativeAttention& k = a.a.forward;
  const int64_t width = k.heads * k.head_dim;
  relative_fold_kernel<T>
      <<<static_cast<unsigned>(ceil_div(k.distances * width, 256)), 256, 0, stream_of(launch)>>>(a);
  check_launch("relative_fold_kernel");
  relative_bias_kernel<<<grid_of(ceil_div(width, kBiasColumns), 2, 1), kBiasColumns * kBiasSlices, 0,
                         stream_of(launch)>>>(a);
  check_launch("relative_bias_kernel");
}

}  // namespace

void relative_attention(const Launch& launch, const RelativeAttention& k) {
  if (k.batch * k.queries == 0) return;
  check_shape(k);
  const RelativeForward a{k, scale_of(k), is_wide(k, {})};
  if (k.type == DType::f32) return relative_forward_float(launch, a);
  relative_forward_tensor(launch, a);
}

void relative_attention_backward(const Launch& launch, const RelativeAttentionBackward& arguments) {
  const RelativeAttention& k = arguments.forward;
  if (k.batch * k.queries == 0) return;
  check_shape(k);
  const ScratchPlan plan(k, static_cast<char*>(arguments.scratch));
  const RelativeBackward a{arguments, scale_of(k),
                           is_wide(k, {arguments.d_out, arguments.d_q, arguments.d_k, arguments.d_v}),
                           plan.parts, splits_of(k)};
  if (k.type == DType::f32) {
    relative_backward_float(launch, a);
    return add_up<float>(launch, a);
  }
  relative_prepare_tensor(launch, a);
  relative_query_tensor(launch, a);
  relative_key_tensor(launch, a);
  relative_position_tensor(launch, a);
  add_up<__nv_bfloat16>(launch, a);
}

int64_t relative_attention_backward_scratch(const RelativeAttention& k) {
  return ScratchPlan(k, nullptr).bytes;
}

}  // namespace perceiver::kernels::cuda
