// Attention forward on Hopper (compute capability 9.0a), after FlashAttention-3 (Shah et al. 2024).
//
// A block owns 128 queries of one head and iterates over tiles of 128 keys from the last visible one down, so
// that the tiles that need masking come first. One producer warpgroup: a single thread loads Q once, and K
// and V by TMA into pipelines of stages. Two consumer warpgroups of 64 queries each: S = Q K^T (wgmma
// m64n128k16, both operands from shared memory), online softmax in base 2, O += P V with P from registers and
// V as an MN-major operand. S of a tile is issued while O += P V of the previous tile is still in flight, so
// the softmax overlaps the tensor cores; the other warpgroup fills the remaining gaps.
//
// Tiles start at the example's first key, so only limits, ends and key masks need masking.
//
// Head widths D = 64 and 128. Shared memory: 128 rows of Q and kStages * 256 rows of K and V, D bf16 each:
// 144 KiB at D = 64 (4 stages), 160 KiB at D = 128 (2 stages). Registers of a consumer thread: S 64, P 32, O
// D / 2, of 240.
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention/hopper_launch.cuh"
#include "kernels/cuda/hopper/primitives.cuh"
#include "kernels/cuda/hopper/query_rows.cuh"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kQueries = 128, kKeys = 128;
constexpr float kLn2 = 0.693147180559945f;

struct ForwardArguments {
  CUtensorMap q, k, v;
  Attention a;
  float scale_log2;  // of the softmax, times log2(e)
};

template <int kD>
struct Shape {
  static constexpr int D = kD, kStages = D == 64 ? 4 : 2, kTiles = D / kTileColumns;
  static constexpr uint32_t kTileBytes = kQueries * kRowBytes;  // of 64 columns
  static constexpr uint32_t kBytes = kTiles * kTileBytes;       // of Q, and of a stage of K or V
  static constexpr uint32_t kQ = 0, kK = kBytes, kV = kK + kStages * kBytes,
                            kBarriers = kV + kStages * kBytes;
  // mbarriers: one for Q, then K full, K empty, V full, V empty of each stage.
  static constexpr uint32_t kSharedBytes = kBarriers + 8 * (1 + 4 * kStages);
  static_assert(kQueries == kKeys);
};

template <typename S>
class ForwardBlock {
  static constexpr int D = S::D, kStages = S::kStages;

 public:
  __device__ ForwardBlock(const ForwardArguments& arguments, unsigned char* memory)
      : args_(arguments),
        a_(arguments.a),
        memory_(memory),
        shared_(shared_address(memory)),
        // Longest rows first.
        tile_(arguments.a, static_cast<int>(gridDim.x - 1 - blockIdx.x), static_cast<int>(blockIdx.y),
              static_cast<int>(blockIdx.z)),
        key_tiles_(tile_.key_tiles<kKeys>()) {}

  __device__ void run() {
    if (threadIdx.x == 0) {
      mbarrier_init(q_barrier(), 1);
      for (int stage = 0; stage < kStages; ++stage) {
        mbarrier_init(k_full(stage), 1);
        mbarrier_init(k_empty(stage), kConsumerArrivals);
        mbarrier_init(v_full(stage), 1);
        mbarrier_init(v_empty(stage), kConsumerArrivals);
      }
      fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < kWarpgroup) {
      warpgroup_reg_dealloc<kProducerRegisters>();
      if (threadIdx.x == 0) produce();
    } else {
      warpgroup_reg_alloc<kConsumerRegisters>();
      consume();
    }
  }

 private:
  __device__ uint32_t q_barrier() const { return shared_ + S::kBarriers; }
  __device__ uint32_t barrier(int kind, int stage) const {
    return shared_ + S::kBarriers + 8 * (1 + kind * kStages + stage);
  }
  __device__ uint32_t k_full(int stage) const { return barrier(0, stage); }
  __device__ uint32_t k_empty(int stage) const { return barrier(1, stage); }
  __device__ uint32_t v_full(int stage) const { return barrier(2, stage); }
  __device__ uint32_t v_empty(int stage) const { return barrier(3, stage); }

  // --- Producer thread.

  __device__ void load_rows(uint32_t target, const CUtensorMap* map, uint32_t barrier, int row) const {
    mbarrier_expect_tx(barrier, S::kBytes);
    tma_load_tiles<S::kTiles>(target, S::kTileBytes, map, barrier, tile_.head * D, row, tile_.example);
    mbarrier_arrive(barrier);
  }

  __device__ void produce() const {
    if (key_tiles_ == 0) return;
    load_rows(shared_ + S::kQ, &args_.q, q_barrier(), tile_.first_query);
    PipelineState<kStages> ring;
    for (int t = key_tiles_ - 1; t >= 0; --t, ring.advance()) {
      const int row = tile_.first_key + t * kKeys;
      mbarrier_wait(k_empty(ring.stage), ring.phase ^ 1);
      load_rows(shared_ + S::kK + ring.stage * S::kBytes, &args_.k, k_full(ring.stage), row);
      mbarrier_wait(v_empty(ring.stage), ring.phase ^ 1);
      load_rows(shared_ + S::kV + ring.stage * S::kBytes, &args_.v, v_full(ring.stage), row);
    }
  }

  // --- Consumer warpgroups.

  __device__ uint32_t q_tile() const { return shared_ + S::kQ + consumer_warp() / 4 * 64 * kRowBytes; }

  __device__ void consume() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      largest_[r] = -INFINITY;
      sum_[r] = 0;
    }
#pragma unroll
    for (int i = 0; i < D / 2; ++i) out_[i] = 0;
    const QueryRows<kKeys> rows(a_, tile_, consumer_warp());
    if (key_tiles_ > 0) mainloop(rows);
    epilogue(rows);
  }

  __device__ void mainloop(const QueryRows<kKeys>& rows) {
    PipelineState<kStages> k_ring, v_ring;
    float s[64];
    uint32_t p[32];
    mbarrier_wait(q_barrier(), 0);
    issue_scores(s, k_ring);
    wgmma_wait<0>();
    wgmma_fence_operand(s);
    mbarrier_arrive_warp(k_empty(k_ring.stage));
    k_ring.advance();
    float correction[2];
    softmax(rows, key_tiles_ - 1, s, correction);
    pack_a_fragment(s, p);
    for (int t = key_tiles_ - 2; t >= 0; --t) {
      issue_scores(s, k_ring);
      issue_values(p, v_ring);
      wgmma_wait<1>();
      wgmma_fence_operand(s);
      mbarrier_arrive_warp(k_empty(k_ring.stage));
      k_ring.advance();
      softmax(rows, t, s, correction);
      wgmma_wait<0>();
      wgmma_fence_operand(out_);
      mbarrier_arrive_warp(v_empty(v_ring.stage));
      v_ring.advance();
#pragma unroll
      for (int i = 0; i < D / 2; ++i) out_[i] *= correction[i % 4 / 2];
      pack_a_fragment(s, p);
    }
    issue_values(p, v_ring);
    wgmma_wait<0>();
    wgmma_fence_operand(out_);
    mbarrier_arrive_warp(v_empty(v_ring.stage));
  }

  __device__ void issue_scores(float (&s)[64], const PipelineState<kStages>& ring) {
    mbarrier_wait(k_full(ring.stage), ring.phase);
    wgmma_fence();
    mm_abt<D>(s, q_tile(), S::kTileBytes, shared_ + S::kK + ring.stage * S::kBytes, S::kTileBytes);
    wgmma_commit();
  }

  __device__ void issue_values(uint32_t (&p)[32], const PipelineState<kStages>& ring) {
    mbarrier_wait(v_full(ring.stage), ring.phase);
    wgmma_fence_operand(out_);
    wgmma_fence_operand(p);
    wgmma_fence();
    mma_ab<kKeys / 16>(out_, p, shared_ + S::kV + ring.stage * S::kBytes, S::kTileBytes);
    wgmma_commit();
  }

  /// Turns scores into exponentials relative to the row's running maximum; `correction` rescales earlier
  /// sums.
  __device__ void softmax(const QueryRows<kKeys>& rows, int t, float (&s)[64], float (&correction)[2]) {
    if (rows.sees_all(t)) return softmax<false>(s, correction);
    rows.hide(t, s);
    softmax<true>(s, correction);
  }

  template <bool kMasked>
  __device__ void softmax(float (&s)[64], float (&correction)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float largest = largest_[r];
#pragma unroll
      for (int n = 0; n < 16; ++n) largest = fmaxf(largest, fmaxf(s[n * 4 + r * 2], s[n * 4 + r * 2 + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 2));
      // The maximum of a row without a visible key yet is -infinity; subtracting 0 keeps its scores masked.
      const float shift = kMasked && largest == -INFINITY ? 0.0f : largest * args_.scale_log2;
      correction[r] = exp2_fast(largest_[r] * args_.scale_log2 - shift);
      largest_[r] = largest;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < 16; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[n * 4 + r * 2 + e];
          x = exp2_fast(fmaf(x, args_.scale_log2, -shift));
          sum += x;
        }
      sum_[r] = sum_[r] * correction[r] + sum;
    }
  }

  __device__ void epilogue(const QueryRows<kKeys>& rows) {
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum_[r] += __shfl_xor_sync(0xFFFFFFFFu, sum_[r], 1);
      sum_[r] += __shfl_xor_sync(0xFFFFFFFFu, sum_[r], 2);
      const bool blind = !(sum_[r] > 0);
      inverse[r] = blind ? 0.0f : 1.0f / sum_[r];
      if (rows.row(r) < tile_.query_count && lane() % 4 == 0)
        static_cast<float*>(a_.lse)[tile_.statistic(a_, rows.row(r))] =
            blind ? INFINITY : (largest_[r] * args_.scale_log2 + log2f(sum_[r])) * kLn2;
    }
    // All four warps have read Q, whose shared memory the epilogue reuses.
    named_barrier_sync(1 + consumer_warp() / 4);
    const int row = consumer_warp() * 16;
    __nv_bfloat16* target = static_cast<__nv_bfloat16*>(a_.out) +
                            (tile_.example * a_.queries + tile_.first_query + row) * a_.out_stride +
                            tile_.head * D;
    store_rows<D>(out_, inverse[0], inverse[1], memory_ + S::kQ, S::kTileBytes, row, target, a_.out_stride,
                  tile_.query_count - row);
  }

  const ForwardArguments& args_;
  const Attention& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  const QueryTile tile_;
  const int key_tiles_;
  float largest_[2], sum_[2];
  float out_[D / 2];
};

template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_forward_kernel(const __grid_constant__ ForwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  ForwardBlock<S>(a, memory).run();
#endif
}

template <typename S>
void launch_forward(const Launch& launch, const Attention& k) {
  ForwardArguments a{};
  a.q = query_rows_map(k, k.q, k.q_stride, kQueries);
  a.k = key_rows_map(k, k.k, kKeys);
  a.v = key_rows_map(k, k.v, kKeys);
  a.a = k;
  a.scale_log2 = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(k.head_dim)));
  launch_attention(launch, "attention_hopper_forward_kernel", attention_hopper_forward_kernel<S>,
                   query_grid(k), S::kSharedBytes, a);
}

}  // namespace

void attention_hopper(const Launch& launch, const Attention& k) {
  if (k.head_dim == 64) return launch_forward<Shape<64>>(launch, k);
  launch_forward<Shape<128>>(launch, k);
}

}  // namespace perceiver::kernels::cuda
