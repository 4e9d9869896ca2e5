// dQ of attention on Hopper (compute capability 9.0a); see hopper_backward.cuh.
//
// Persistent blocks compute tiles of 128 queries, 64 to a warpgroup, in the order of Schedule. For each they
// iterate over tiles of 64 keys from the last visible one down, as the forward kernel: S = Q K^T,
// dP = dO V^T, dQ += dS K with dS from registers. S is issued a tile ahead, and is in flight while P and dS
// are computed. Between tiles of queries the first S and dP of the next are computed while dQ is written. A
// warpgroup passes over key tiles that none of its 64 queries sees.
//
// Registers of a consumer thread, of 240: two S 32 each, dP 32, dS 16, dQ D / 2, up to D = 64 also Q and dO,
// D / 4 each. Shared memory: Q, dO, dQ, and kStages stages of K and V: 176 KiB up to D = 64 (8 stages), 224
// KiB above (4 stages; a warpgroup holds up to three). Q and dO of the next tile are loaded once those of
// this one are in registers, or above D = 64 once its last S and dP are complete.
#include "kernels/cuda/attention/hopper_launch.cuh"
#include "kernels/cuda/attention/hopper_query_tiles.cuh"
#include "kernels/cuda/attention/store_codes.cuh"
#include "kernels/cuda/hopper/rotate_rows.cuh"
#include "kernels/cuda/hopper/schedule.cuh"

namespace perceiver::kernels::cuda::hopper {
namespace {

template <typename S>
struct DqLayout {
  static constexpr int kStages = S::kTiles == 1 ? 8 : 4;
  static constexpr uint32_t kOwnBytes = S::kTiles * kOwnTileBytes;
  static constexpr uint32_t kKeyTileBytes = S::kKeys * kRowBytes, kKeyBytes = S::kTiles * kKeyTileBytes;
  static constexpr uint32_t kQ = 0, kDOut = kOwnBytes, kDQ = 2 * kOwnBytes;
  static constexpr uint32_t kFirstStage = 3 * kOwnBytes, kStageBytes = 2 * kKeyBytes;  // K, V
  // mbarriers: full and empty of Q and dO, then of each stage. Then the works of this tile and the next.
  static constexpr uint32_t kBarriers = kFirstStage + kStages * kStageBytes;
  static constexpr uint32_t kWork = kBarriers + 8 * (2 + 2 * kStages);
  static constexpr uint32_t kSharedBytes = kWork + 2 * sizeof(DqWork);
};

/// kCodes: leaves dQ in 8 bits.
template <typename S, bool kCodes>
class DqBlock {
  using L = DqLayout<S>;
  static constexpr int D = S::D, kKeys = S::kKeys, kStages = L::kStages;
  using Rows = QueryRows<kKeys>;

 public:
  __device__ DqBlock(const BackwardArguments& arguments, unsigned char* memory)
      : args_(arguments),
        a_(arguments.a.forward),
        memory_(memory),
        shared_(shared_address(memory)),
        group_(uniform(consumer_warp() / 4)) {}

  __device__ void run() {
    if (threadIdx.x == 0) init_barriers();
    __syncthreads();
    if (threadIdx.x < kWarpgroup) {
      warpgroup_reg_dealloc<kProducerRegisters>();
      if (threadIdx.x == 0) produce();
    } else {
      warpgroup_reg_alloc<kConsumerRegisters>();
      let_next_kernel_start();
      consume();
      // It reads nothing of the kernel before it, dK and dV, which itself starts after what both depend on:
      // so it runs beside the last tiles of that one. But it may not end sooner: what follows depends on
      // both. The producer has no registers for this.
      wait_for_earlier_kernels();
    }
  }

 private:
  __device__ uint32_t barrier(int index) const { return shared_ + L::kBarriers + 8 * index; }
  __device__ uint32_t own_full() const { return barrier(0); }
  __device__ uint32_t own_empty() const { return barrier(1); }
  __device__ uint32_t full(int stage) const { return barrier(2 + stage); }
  __device__ uint32_t empty(int stage) const { return barrier(2 + kStages + stage); }

  __device__ uint32_t k_stage(int stage) const { return shared_ + L::kFirstStage + stage * L::kStageBytes; }
  __device__ uint32_t v_stage(int stage) const { return k_stage(stage) + L::kKeyBytes; }
  __device__ DqWork& work(uint32_t parity) const {
    return reinterpret_cast<DqWork*>(memory_ + L::kWork)[parity];
  }

  /// With kCodes, behind the layout.
  __device__ GroupCodes& codes() const {
    return reinterpret_cast<CodesMemory*>(memory_ + codes_place(L::kSharedBytes))->own();
  }

  __device__ void init_barriers() const {
    mbarrier_init(own_full(), 1);
    mbarrier_init(own_empty(), kConsumerArrivals);
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(full(stage), 1);
      mbarrier_init(empty(stage), kConsumerArrivals);
    }
    fence_mbarrier_init();
  }

  // --- Producer thread.

  __device__ void produce() const {
    uint32_t parity = 0;  // of the number of the tile of queries
    PipelineState<kStages> ring;
    for (Schedule schedule(a_, args_.section_heads); schedule.advance(); parity ^= 1) {
      const QueryTile tile = schedule.tile();
      const int seen = tile.key_tiles<kKeys>(), key_tiles = max(seen, 1);
      // Where no key is seen, rows beyond the last key, which TMA makes zeros.
      const int first_row = seen > 0 ? tile.first_key : static_cast<int>(a_.keys);
      mbarrier_wait(own_empty(), parity ^ 1);
      load_own(tile);
      describe_queries<kKeys>(a_, tile, key_tiles, work(parity));
      mbarrier_arrive(own_full());
      for (int t = key_tiles - 1; t >= 0; --t, ring.advance()) {
        mbarrier_wait(empty(ring.stage), ring.phase ^ 1);
        load_keys(ring.stage, tile, first_row + t * kKeys);
      }
    }
    mbarrier_wait(own_empty(), parity ^ 1);
    work(parity).key_tiles = 0;
    mbarrier_arrive(own_full());
  }

  __device__ void load_own(const QueryTile& tile) const {
    mbarrier_expect_tx(own_full(), 2 * L::kOwnBytes);
    tma_load_tiles<S::kTiles>(shared_ + L::kQ, kOwnTileBytes, &args_.q_rows, own_full(), tile.head,
                              tile.first_query, tile.example);
    tma_load_tiles<S::kTiles>(shared_ + L::kDOut, kOwnTileBytes, &args_.d_out_rows, own_full(), tile.head,
                              tile.first_query, tile.example);
  }
  __device__ void load_keys(int stage, const QueryTile& tile, int row) const {
    mbarrier_expect_tx(full(stage), L::kStageBytes);
    tma_load_tiles<S::kTiles>(k_stage(stage), L::kKeyTileBytes, &args_.k_rows, full(stage), tile.head, row,
                              tile.example);
    tma_load_tiles<S::kTiles>(v_stage(stage), L::kKeyTileBytes, &args_.v_rows, full(stage), tile.head, row,
                              tile.example);
    mbarrier_arrive(full(stage));
  }

  // --- Consumer warpgroups.

  __device__ void consume() {
    uint32_t parity = 0;
    float s[2][32], d_p[32];
    clear_accumulator(d_q_);
    if constexpr (kCodes) begin_codes(codes(), args_.quantize);
    bool first = true;
    for (; wait_for_work(parity); parity ^= 1, first = false) {
      const Rows rows(a_, work(parity).tile, consumer_warp());
      load_statistics(rows, work(parity).tile);
      q_.load(shared_ + L::kQ);
      d_out_.load(shared_ + L::kDOut);
      finish_gradients(first);
      pass_over_hidden(work(parity));
      mbarrier_wait(full(ring_.stage), ring_.phase);
      issue_scores(s[0], ring_.stage);
      issue_probability_gradients(d_p, ring_.stage);
      wgmma_wait<2>();  // Tells the compiler that dQ is complete.
      if (!first) epilogue(work(parity ^ 1).tile);
      // The producer also describes the next tile in place of the previous one, whose dQ has been written.
      if constexpr (S::kOwnInRegisters) mbarrier_arrive_warp(own_empty());
      wgmma_wait<0>();
      clear_accumulator(d_q_);
      compute_tile(rows, static_cast<int>(uniform(work(parity).group_tiles[group_])), s, d_p);
    }
    finish_gradients(first);
    if (!first) epilogue(work(parity ^ 1).tile);
    if constexpr (kCodes) end_codes(codes(), args_.quantize);
  }

  /// Whether there is another tile of queries.
  __device__ bool wait_for_work(uint32_t parity) const {
    mbarrier_wait(own_full(), parity);
    return uniform(work(parity).key_tiles) > 0;
  }

  /// LSE in base 2 and delta; rows past the last query lie in the padding.
  __device__ void load_statistics(const Rows& rows, const QueryTile& tile) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int query = tile.first_query + rows.row(r);
      const int64_t place = (static_cast<int64_t>(tile.example) * a_.heads + tile.head) * args_.query_tiles +
                            query / S::kQueries;
      const float* statistics = args_.statistics + place * 2 * S::kQueries + query % S::kQueries;
      lse_[r] = query < a_.queries ? statistics[0] : INFINITY;
      delta_[r] = query < a_.queries ? statistics[S::kQueries] : 0.0f;
    }
  }

  __device__ void pass_over_hidden(const DqWork& work) {
    for (int t = uniform(work.key_tiles); t > static_cast<int>(uniform(work.group_tiles[group_])); --t) {
      mbarrier_wait(full(ring_.stage), ring_.phase);
      mbarrier_arrive_warp(empty(ring_.stage));
      ring_.advance();
    }
  }

  /// From the first S and dP, which are complete, up to the last product with K, which is issued.
  __device__ void compute_tile(const Rows& rows, int key_tiles, float (&s)[2][32], float (&d_p)[32]) {
    uint32_t d_s[16];
    previous_ = -1;
    current_ = ring_.stage;
    ring_.advance();
    int t = key_tiles - 1;
    for (; t > 1; t -= 2) {
      step(rows, t, s[0], s[1], d_p, d_s);
      step(rows, t - 1, s[1], s[0], d_p, d_s);
    }
    if (t == 1) {
      step(rows, 1, s[0], s[1], d_p, d_s);
      score_gradients<0>(rows, 0, s[1], d_p, d_s);
    } else {
      score_gradients<0>(rows, 0, s[0], d_p, d_s);
    }
    previous_ = current_;
    issue_gradients(d_s);
  }

  /// Waits for the last product with K, before the stages that the next tile passes over.
  __device__ void finish_gradients(bool none) {
    wgmma_wait<0>();
    if (!none) release_previous();
  }

  /// Computes dS of the tile in stage current_, whose S and dP have been issued, and issues its product with
  /// K, and S and dP of the next tile.
  __device__ void step(const Rows& rows, int t, float (&s)[32], float (&s_next)[32], float (&d_p)[32],
                       uint32_t (&d_s)[16]) {
    const int next = ring_.stage;
    mbarrier_wait(full(next), ring_.phase);
    ring_.advance();
    issue_scores(s_next, next);
    score_gradients<1>(rows, t, s, d_p, d_s);
    issue_probability_gradients(d_p, next);
    previous_ = current_;
    issue_gradients(d_s);
    current_ = next;
  }

  /// dS from S and dP. In flight are also the previous product with K, which is complete on return, and
  /// kLater groups of products that were issued after it. Without later ones these S and dP are the last.
  template <int kLater>
  __device__ void score_gradients(const Rows& rows, int t, float (&s)[32], float (&d_p)[32],
                                  uint32_t (&d_s)[16]) {
    wgmma_wait<kLater + 1>();
    wgmma_fence_operand(s);
    wgmma_fence_operand(d_p);
    if constexpr (!S::kOwnInRegisters && kLater == 0) mbarrier_arrive_warp(own_empty());
    if (!rows.sees_all(t)) hide(rows, t, s);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float p = exp2_fast(fmaf(s[i], args_.scale_log2, -lse_[i % 4 / 2]));
      s[i] = p * (d_p[i] - delta_[i % 4 / 2]);
    }
    wgmma_wait<kLater>();
    if (previous_ >= 0) release_previous();
    pack_a_fragment(s, d_s);
  }

  /// Sets the scores of hidden keys to -infinity.
  __device__ void hide(const Rows& rows, int t, float (&s)[32]) const {
    if (a_.key_mask == nullptr) return rows.template hide_beyond_limits<kKeys>(t, s);
    rows.hide(t, s);
  }

  __device__ void issue_scores(float (&s)[32], int stage) {
    q_.fence_operand();
    wgmma_fence();
    q_.multiply(s, shared_ + L::kQ, group_, k_stage(stage), L::kKeyTileBytes);
    wgmma_commit();
  }
  __device__ void issue_probability_gradients(float (&d_p)[32], int stage) {
    d_out_.fence_operand();
    wgmma_fence();
    d_out_.multiply(d_p, shared_ + L::kDOut, group_, v_stage(stage), L::kKeyTileBytes);
    wgmma_commit();
  }
  /// dQ += dS K of stage previous_.
  __device__ void issue_gradients(uint32_t (&d_s)[16]) {
    wgmma_fence_operand(d_q_);
    wgmma_fence_operand(d_s);
    wgmma_fence();
    uniform_mma_ab<4>(d_q_, d_s, k_stage(previous_), L::kKeyTileBytes);
    wgmma_commit();
  }
  __device__ void release_previous() {
    wgmma_fence_operand(d_q_);
    mbarrier_arrive_warp(empty(previous_));
  }

  /// Rotates dQ of the tile back and writes it.
  __device__ void epilogue(const QueryTile& tile) {
    const int row = consumer_warp() * 16, width = static_cast<int>(a_.head_dim);
    const int64_t first = tile.example * a_.queries + tile.first_query;
    rotate_rows_back<D>(d_q_, args_.a.q_rotary, tile.head, first + row + lane() / 4,
                        first + tile.query_count);
    if constexpr (kCodes) {
      const int begin = group_ * kCodeRows;
      store_codes<__NV_E5M2, false>(
          d_q_, args_.scale, args_.scale, memory_ + L::kDQ, begin, codes(), 1 + group_, args_.quantize,
          {.row = first + begin,
           .column = args_.q_column + tile.head * width,
           .rows_left = tile.query_count - begin,
           .part = tile.example * args_.query_tiles + (tile.first_query + begin) / kCodeRows},
          args_.sum_parts);
      return;
    }
    __nv_bfloat16* target =
        static_cast<__nv_bfloat16*>(args_.a.d_q) + (first + row) * a_.q_stride + tile.head * width;
    store_rows<D>(d_q_, args_.scale, args_.scale, memory_ + L::kDQ, kOwnTileBytes, row, target, a_.q_stride,
                  tile.query_count - row, width);
  }

  const BackwardArguments& args_;
  const Attention& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  const int group_;              // of the consumers
  PipelineState<kStages> ring_;  // of the consumers
  int previous_, current_;       // stages; previous_ -1 where its product with K is complete
  OwnRows<D, S::kOwnInRegisters> q_, d_out_;
  float lse_[2], delta_[2];
  float d_q_[D / 2];
};

template <typename S, bool kCodes>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_dq_kernel(const __grid_constant__ BackwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  DqBlock<S, kCodes>(a, memory).run();
#endif
}

}  // namespace

template <typename S, bool kCodes>
void launch_dq(const Launch& launch, BackwardArguments arguments) {
  const Attention& k = arguments.a.forward;
  const PersistentGrid grid(launch, k, k.queries, k.keys);
  arguments.section_heads = grid.section_heads;
  launch_attention<attention_hopper_dq_kernel<S, kCodes>>(launch, "attention_hopper_dq_kernel", grid.blocks,
                                                          shared_bytes<kCodes>(DqLayout<S>::kSharedBytes),
                                                          arguments);
}

template void launch_dq<BackwardShape<32>>(const Launch&, BackwardArguments);
template void launch_dq<BackwardShape<64>>(const Launch&, BackwardArguments);
template void launch_dq<BackwardShape<64>, true>(const Launch&, BackwardArguments);
template void launch_dq<BackwardShape<96>>(const Launch&, BackwardArguments);
template void launch_dq<BackwardShape<128>>(const Launch&, BackwardArguments);

}  // namespace perceiver::kernels::cuda::hopper
