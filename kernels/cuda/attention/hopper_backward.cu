// Attention backward on Hopper (compute capability 9.0a): the preprocess kernel, and the launches of all
// three.
//
// dK and dV (hopper_dkdv.cu) and dQ (hopper_dq.cu) are separate kernels, so that every sum stays in registers
// and has one order: no atomics, and the same bits in every run. S and dP are computed twice for it (7 matrix
// products instead of 5), which costs less than accumulating dQ in global memory.
//
// The preprocess kernel computes delta = rowsum(dO * O) (FlashAttention-2, Dao 2023, algorithm 2), converts
// the LSE to base 2, and lays out both and the limits by tiles of 64 queries, padded.
#include <bit>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/attention/hopper_backward.cuh"
#include "kernels/cuda/attention/hopper_launch.cuh"
#include "kernels/cuda/attention/store_codes.cuh"
#include "kernels/cuda/support/column_sums.cuh"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

constexpr float kLog2E = 1.4426950408889634f;

/// That share a query, 8 channels each.
template <typename S>
constexpr int kQueryLanes = std::bit_ceil(static_cast<unsigned>(S::D / 8));

/// Padding rows see nothing.
template <typename S>
__global__ void __launch_bounds__(256)
    attention_hopper_preprocess_kernel(const __grid_constant__ BackwardArguments a) {
  start_after_earlier_kernels();
  constexpr int kLanes = kQueryLanes<S>, kQueries = S::kQueries;
  const Attention& k = a.a.forward;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) / kLanes;
  const int chunk = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t padded = static_cast<int64_t>(a.query_tiles) * kQueries;
  const int64_t query = row % padded, head = row / padded % k.heads, example = row / padded / k.heads;
  const bool exists = example < k.batch && query < k.queries;
  float sum = 0;
  if (exists && chunk * 8 < k.head_dim) {
    const int64_t offset = (example * k.queries + query) * k.out_stride + head * k.head_dim + chunk * 8;
    const uint4 x = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(k.out) + offset);
    const uint4 y = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.a.d_out) + offset);
    const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 u = unpack(xs[i]), v = unpack(ys[i]);
      sum += u.x * v.x + u.y * v.y;
    }
  }
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
  if (row == 0 && chunk == 0) *a.next_item = 0;
  if (chunk != 0 || example >= k.batch) return;
  const int64_t statistic = (example * k.heads + head) * k.queries + query;
  const int64_t tile = row / kQueries, place = row % kQueries;
  a.statistics[tile * 2 * kQueries + place] =
      exists ? static_cast<const float*>(k.lse)[statistic] * kLog2E : INFINITY;
  a.statistics[(tile * 2 + 1) * kQueries + place] = sum;
  if (head == 0)
    a.limits[example * padded + query] =
        exists ? min(k.limit[example * k.queries + query], static_cast<int32_t>(k.keys)) : 0;
}

template <typename S>
int64_t padded_queries(const Attention& k) {
  return ceil_div(k.queries, S::kQueries) * S::kQueries;
}
template <typename S>
int64_t statistics_bytes(const Attention& k) {
  return k.batch * k.heads * padded_queries<S>(k) * 2 * static_cast<int64_t>(sizeof(float));
}
template <typename S>
int64_t limits_bytes(const Attention& k) {
  return k.batch * padded_queries<S>(k) * static_cast<int64_t>(sizeof(int32_t));
}

template <typename S>
BackwardArguments make_arguments(const AttentionBackward& a, Scratch scratch) {
  const Attention& k = a.forward;
  const double scale = 1 / std::sqrt(static_cast<double>(k.head_dim));
  const auto queries = [&](const void* data, int64_t stride, int64_t rows) {
    return query_rows_map(k, data, stride, rows);
  };
  const auto keys = [&](const void* data, int64_t rows) { return key_rows_map(k, data, rows); };
  BackwardArguments b{};
  b.q = queries(k.q, k.q_stride, S::kQueries);
  b.d_out = queries(a.d_out, k.out_stride, S::kQueries);
  b.k = keys(k.k, kKeyTile);
  b.v = keys(k.v, kKeyTile);
  b.q_rows = queries(k.q, k.q_stride, kQueryTile);
  b.d_out_rows = queries(a.d_out, k.out_stride, kQueryTile);
  b.k_rows = keys(k.k, S::kKeys);
  b.v_rows = keys(k.v, S::kKeys);
  b.a = a;
  b.scale = static_cast<float>(scale);
  b.scale_log2 = static_cast<float>(scale * 1.4426950408889634);
  b.query_tiles = static_cast<int>(ceil_div(k.queries, S::kQueries));
  b.key_tiles = static_cast<int>(ceil_div(k.keys, S::kOwnKeys));
  auto* memory = static_cast<unsigned char*>(scratch.data);
  b.statistics = reinterpret_cast<float*>(memory);
  b.limits = reinterpret_cast<int32_t*>(memory + statistics_bytes<S>(k));
  b.next_item = reinterpret_cast<int*>(memory + statistics_bytes<S>(k) + limits_bytes<S>(k));
  return b;
}

template <typename S>
void launch_preprocess(const Launch& launch, const BackwardArguments& arguments) {
  const Attention& k = arguments.a.forward;
  const int64_t lanes = k.batch * k.heads * padded_queries<S>(k) * kQueryLanes<S>;
  launch_dependent<attention_hopper_preprocess_kernel<S>>(launch, "attention_hopper_preprocess_kernel",
                                                          static_cast<unsigned>(ceil_div(lanes, 256)), 256, 0,
                                                          arguments);
}

template <typename S>
void launch_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch) {
  const BackwardArguments arguments = make_arguments<S>(a, scratch);
  launch_preprocess<S>(launch, arguments);
  launch_dkdv<S>(launch, arguments);
  launch_dq<S>(launch, arguments);
}

/// Where these are in the scratch memory, behind what every backward needs.
int64_t parts_offset(const AttentionBackward& a) {
  return ceil_div(attention_hopper_backward_bytes(a), 256) * 256;
}

}  // namespace

int64_t attention_hopper_backward_bytes(const AttentionBackward& a) {
  return with_head_width(a.forward.head_dim, [&]<int D>() {
    using S = BackwardShape<D>;
    return statistics_bytes<S>(a.forward) + limits_bytes<S>(a.forward) + static_cast<int64_t>(sizeof(int));
  });
}

void attention_hopper_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch) {
  require(scratch.bytes >= attention_hopper_backward_bytes(a), "scratch memory for attention's backward");
  with_head_width(a.forward.head_dim,
                  [&]<int D>() { launch_backward<BackwardShape<D>>(launch, a, scratch); });
}

int64_t attention_hopper_backward_quantize_bytes(const AttentionBackward& a) {
  const Attention& k = a.forward;
  const int64_t columns = 3 * k.heads * k.head_dim;
  return parts_offset(a) +
         k.batch * ceil_div(k.queries, kCodeRows) * columns * static_cast<int64_t>(sizeof(float));
}

void attention_hopper_backward_quantize(const Launch& launch, const Fp8AttentionBackward& a,
                                        Scratch scratch) {
  using S = BackwardShape<64>;
  require(scratch.bytes >= attention_hopper_backward_quantize_bytes(a.backward),
          "scratch memory for attention's backward");
  const Fp8Quantize& q = a.quantize;
  BackwardArguments arguments = make_arguments<S>(a.backward, scratch);
  arguments.quantize = q;
  arguments.q_column = a.q_column;
  arguments.k_column = a.k_column;
  arguments.v_column = a.v_column;
  auto* const parts =
      reinterpret_cast<float*>(static_cast<unsigned char*>(scratch.data) + parts_offset(a.backward));
  arguments.sum_parts = q.column_sums != nullptr ? parts : nullptr;
  launch_preprocess<S>(launch, arguments);
  launch_dkdv<S, true>(launch, arguments);
  launch_dq<S, true>(launch, arguments);
  if (q.column_sums == nullptr) return;
  sum_parts(launch, {.parts = parts,
                     .count = a.backward.forward.batch * arguments.query_tiles,
                     .stride = q.columns,
                     .columns = q.columns,
                     .target = {static_cast<float*>(q.column_sums)},
                     .accumulate = {q.accumulate_sums}});
}

}  // namespace perceiver::kernels::cuda
