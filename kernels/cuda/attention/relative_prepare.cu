// What backward of relative attention in bf16 prepares for its kernels, which read queries many times: q + u
// and q + v, rounded, and per query the log-sum-exp in base 2 and delta = rowsum(dO * O).
#include "kernels/cuda/attention/relative_tiles.cuh"

namespace perceiver::kernels::cuda {
namespace {

/// A warp per row of the scratch; rows that are no queries get zeros and a log-sum-exp of infinity, so that
/// their weights are 0.
template <int D>
__global__ void __launch_bounds__(256) relative_prepare_kernel(const __grid_constant__ RelativeBackward a) {
  const RelativeAttention& k = a.a.forward;
  const RelativeScratch& scratch = a.scratch;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + warp_id();
  if (row >= k.batch * k.heads * scratch.padded_queries) return;
  const int64_t query = row % scratch.padded_queries, pair = row / scratch.padded_queries;
  const RelativeHead<Bf16> head{k, pair / k.heads, pair % k.heads};
  const int64_t offset = head.head * k.head_dim;
  const bool inside = query < k.queries;
  const Bf16* q = head.queries(k.q, k.q_stride, query);
  const Bf16* out = head.queries(k.out, k.out_stride, query);
  const Bf16* d_out = head.queries(a.a.d_out, k.out_stride, query);
  const auto* u = static_cast<const Bf16*>(k.content_bias) + offset;
  const auto* v = static_cast<const Bf16*>(k.position_bias) + offset;
  const bool wide = a.wide;
  float delta = 0;
#pragma unroll
  for (int c = 2 * lane_id(); c < D; c += 64) {
    const bool first = inside && c < k.head_dim, second = inside && c + 1 < k.head_dim;
    const float2 x = load_pair(q + c, wide, first, second), bias_u = load_pair(u + c, false, first, second),
                 bias_v = load_pair(v + c, false, first, second), o = load_pair(out + c, wide, first, second),
                 d = load_pair(d_out + c, wide, first, second);
    *reinterpret_cast<uint32_t*>(scratch.content + row * D + c) = pack(x.x + bias_u.x, x.y + bias_u.y);
    *reinterpret_cast<uint32_t*>(scratch.position + row * D + c) = pack(x.x + bias_v.x, x.y + bias_v.y);
    delta += o.x * d.x + o.y * d.y;
  }
  delta = warp_sum(delta);
  if (lane_id() != 0) return;
  const float lse = inside ? static_cast<const float*>(k.lse)[head.lse_row(static_cast<int>(query))] : kBlind;
  scratch.statistics[row] = {lse * kLog2E, delta};
}

}  // namespace

void relative_prepare_tensor(const Launch& launch, const RelativeBackward& a) {
  const RelativeAttention& k = a.a.forward;
  const int64_t rows = k.batch * k.heads * a.scratch.padded_queries;
  with_width(k, [&]<int D>() {
    relative_prepare_kernel<D><<<static_cast<unsigned>(ceil_div(rows, 8)), 256, 0, stream_of(launch)>>>(a);
    check_launch("relative_prepare_kernel");
  });
}

}  // namespace perceiver::kernels::cuda
