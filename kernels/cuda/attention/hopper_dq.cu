// dQ of attention on Hopper (compute capability 9.0a); see hopper_backward.cuh.
//
// A block owns 128 queries, 64 to a warpgroup, and iterates over tiles of 64 keys from the last visible one
// down, as the forward kernel: S = Q K^T, dP = dO V^T, dQ += dS K with dS from registers. Shared memory: Q,
// dO and kStages stages of K and V: 160 KiB at D = 64 (8 stages), 192 KiB at D = 128 (4 stages).
#include "kernels/cuda/attention/hopper_backward.cuh"
#include "kernels/cuda/attention/hopper_launch.cuh"
#include "kernels/cuda/hopper/query_rows.cuh"

namespace perceiver::kernels::cuda::hopper {
namespace {

template <typename S>
struct DqLayout {
  static constexpr int kStages = S::D == 64 ? 8 : 4;
  static constexpr uint32_t kOwnBytes = S::kTiles * kOwnTileBytes;
  static constexpr uint32_t kKeyTileBytes = S::kKeys * kRowBytes, kKeyBytes = S::kTiles * kKeyTileBytes;
  static constexpr uint32_t kQ = 0, kDOut = kOwnBytes, kFirstStage = 2 * kOwnBytes,
                            kStageBytes = 2 * kKeyBytes;
  // mbarriers: one for Q and dO, then full and empty of each stage.
  static constexpr uint32_t kBarriers = kFirstStage + kStages * kStageBytes;
  static constexpr uint32_t kSharedBytes = kBarriers + 8 * (1 + 2 * kStages);
};

template <typename S>
class DqBlock {
  using L = DqLayout<S>;
  static constexpr int D = S::D, kKeys = S::kKeys, kStages = L::kStages;

 public:
  __device__ DqBlock(const BackwardArguments& arguments, unsigned char* memory)
      : args_(arguments),
        a_(arguments.a.forward),
        memory_(memory),
        shared_(shared_address(memory)),
        // Longest rows first.
        tile_(a_, static_cast<int>(gridDim.x - 1 - blockIdx.x), static_cast<int>(blockIdx.y),
              static_cast<int>(blockIdx.z)),
        key_tiles_(tile_.key_tiles<kKeys>()) {}

  __device__ void run() {
    if (threadIdx.x == 0) {
      mbarrier_init(own_barrier(), 1);
      for (int i = 0; i < kStages; ++i) {
        mbarrier_init(full(i), 1);
        mbarrier_init(empty(i), kConsumerArrivals);
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
  __device__ uint32_t own_barrier() const { return shared_ + L::kBarriers; }
  __device__ uint32_t full(int i) const { return shared_ + L::kBarriers + 8 * (1 + i); }
  __device__ uint32_t empty(int i) const { return shared_ + L::kBarriers + 8 * (1 + kStages + i); }
  __device__ uint32_t k_stage(int i) const { return shared_ + L::kFirstStage + i * L::kStageBytes; }
  __device__ uint32_t v_stage(int i) const { return k_stage(i) + L::kKeyBytes; }

  __device__ void produce() const {
    if (key_tiles_ == 0) return;
    const int column = tile_.head * D;
    mbarrier_expect_tx(own_barrier(), 2 * L::kOwnBytes);
    tma_load_tiles<S::kTiles>(shared_ + L::kQ, kOwnTileBytes, &args_.q_rows, own_barrier(), column,
                              tile_.first_query, tile_.example);
    tma_load_tiles<S::kTiles>(shared_ + L::kDOut, kOwnTileBytes, &args_.d_out_rows, own_barrier(), column,
                              tile_.first_query, tile_.example);
    mbarrier_arrive(own_barrier());
    PipelineState<kStages> ring;
    for (int t = key_tiles_ - 1; t >= 0; --t, ring.advance()) {
      const int row = tile_.first_key + t * kKeys;
      mbarrier_wait(empty(ring.stage), ring.phase ^ 1);
      mbarrier_expect_tx(full(ring.stage), L::kStageBytes);
      tma_load_tiles<S::kTiles>(k_stage(ring.stage), L::kKeyTileBytes, &args_.k_rows, full(ring.stage),
                                column, row, tile_.example);
      tma_load_tiles<S::kTiles>(v_stage(ring.stage), L::kKeyTileBytes, &args_.v_rows, full(ring.stage),
                                column, row, tile_.example);
      mbarrier_arrive(full(ring.stage));
    }
  }

  __device__ void consume() {
    const QueryRows<kKeys> rows(a_, tile_, consumer_warp());
    clear_accumulator(d_q_);
    if (key_tiles_ > 0) mainloop(rows);
    // All four warps have read Q, whose shared memory the epilogue reuses.
    named_barrier_sync(1 + consumer_warp() / 4);
    const int row = consumer_warp() * 16;
    __nv_bfloat16* target = static_cast<__nv_bfloat16*>(args_.a.d_q) +
                            (tile_.example * a_.queries + tile_.first_query + row) * a_.q_stride +
                            tile_.head * D;
    store_rows<D>(d_q_, args_.scale, args_.scale, memory_ + L::kQ, kOwnTileBytes, row, target, a_.q_stride,
                  tile_.query_count - row);
  }

  /// LSE in base 2 (which 0) or delta (1) of row r; rows past the last query lie in the padding.
  __device__ float statistic(const QueryRows<kKeys>& rows, int which, int r) const {
    const int query = tile_.first_query + rows.row(r);
    const int64_t tile = (static_cast<int64_t>(tile_.example) * a_.heads + tile_.head) * args_.query_tiles +
                         query / S::kQueries;
    if (query >= a_.queries) return which == 0 ? INFINITY : 0.0f;
    return args_.statistics[(tile * 2 + which) * S::kQueries + query % S::kQueries];
  }

  __device__ void mainloop(const QueryRows<kKeys>& rows) {
    float lse[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      lse[r] = statistic(rows, 0, r);
      delta[r] = statistic(rows, 1, r);
    }
    mbarrier_wait(own_barrier(), 0);
    q_.load(shared_ + L::kQ);
    d_out_.load(shared_ + L::kDOut);
    float s[2][32], d_p[32];
    PipelineState<kStages> ring;
    previous_ = -1;
    current_ = ring.stage;
    mbarrier_wait(full(current_), ring.phase);
    ring.advance();
    issue(q_, shared_ + L::kQ, s[0], k_stage(current_));
    issue(d_out_, shared_ + L::kDOut, d_p, v_stage(current_));
    wgmma_wait<0>();  // In the loop one more group is in flight.
    int t = key_tiles_ - 1;
    for (; t > 1; t -= 2) {
      step<true>(rows, t, ring, lse, delta, s[0], s[1], d_p);
      step<true>(rows, t - 1, ring, lse, delta, s[1], s[0], d_p);
    }
    if (t == 1) {
      step<true>(rows, 1, ring, lse, delta, s[0], s[1], d_p);
      step<false>(rows, 0, ring, lse, delta, s[1], s[0], d_p);
    } else {
      step<false>(rows, 0, ring, lse, delta, s[0], s[1], d_p);
    }
    wgmma_wait<0>();
    wgmma_fence_operand(d_q_);
  }

  /// Processes the tile in stage current_, whose S and dP have been issued; issues those of the next tile.
  template <bool kMore>
  __device__ void step(const QueryRows<kKeys>& rows, int t, PipelineState<kStages>& ring,
                       const float (&lse)[2], const float (&delta)[2], float (&s)[32], float (&s_next)[32],
                       float (&d_p)[32]) {
    const int next = ring.stage;
    if constexpr (kMore) {
      mbarrier_wait(full(next), ring.phase);
      ring.advance();
      issue(q_, shared_ + L::kQ, s_next, k_stage(next));
    }
    wgmma_wait<1 + kMore>();  // S and dP are done; in flight: dQ of the previous tile, the next S.
    wgmma_fence_operand(s);
    wgmma_fence_operand(d_p);
    if (!rows.sees_all(t)) rows.hide(t, s);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float p = exp2_fast(fmaf(s[i], args_.scale_log2, -lse[i % 4 / 2]));
      s[i] = p * (d_p[i] - delta[i % 4 / 2]);
    }
    wgmma_wait<kMore>();
    wgmma_fence_operand(d_q_);
    if (previous_ >= 0) mbarrier_arrive_warp(empty(previous_));
    uint32_t d_s[16];
    pack_a_fragment(s, d_s);
    wgmma_fence_operand(d_s);
    if constexpr (kMore) issue(d_out_, shared_ + L::kDOut, d_p, v_stage(next));
    wgmma_fence();
    mma_ab<4>(d_q_, d_s, k_stage(current_), L::kKeyTileBytes);
    wgmma_commit();
    previous_ = current_;
    if constexpr (kMore) current_ = next;
  }

  __device__ void issue(OwnRows<D, D == 64>& own, uint32_t tiles, float (&c)[32], uint32_t other) {
    own.fence_operand();
    wgmma_fence();
    own.multiply(c, tiles, other, L::kKeyTileBytes);
    wgmma_commit();
  }

  const BackwardArguments& args_;
  const Attention& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  const QueryTile tile_;
  const int key_tiles_;
  int previous_, current_;  // stages; previous_ -1 before the second tile
  OwnRows<D, D == 64> q_, d_out_;
  float d_q_[D / 2];
};

template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_dq_kernel(const __grid_constant__ BackwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  DqBlock<S>(a, memory).run();
#endif
}

}  // namespace

template <typename S>
void launch_dq(const Launch& launch, const BackwardArguments& arguments) {
  launch_attention(launch, "attention_hopper_dq_kernel", attention_hopper_dq_kernel<S>,
                   query_grid(arguments.a.forward), DqLayout<S>::kSharedBytes, arguments);
}

template void launch_dq<BackwardShape<64>>(const Launch&, const BackwardArguments&);
template void launch_dq<BackwardShape<128>>(const Launch&, const BackwardArguments&);

}  // namespace perceiver::kernels::cuda::hopper
