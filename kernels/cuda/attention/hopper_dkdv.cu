// dK and dV of attention on Hopper (compute capability 9.0a); see hopper_backward.cuh.
//
// A block owns 128 keys, 64 to a warpgroup, and iterates over the tiles of 64 queries that see them. Scores
// are held transposed, S^T = K Q^T and dP^T = V dO^T (keys by rows), so that P^T and dS^T are register
// operands of dV += P^T dO and dK += dS^T Q. Blocks are persistent and fetch the next key tile from a
// counter; its K and V are loaded into the other of two slots while the current one is in use.
//
// Registers of a consumer thread, of 240: dK and dV D / 2 each, S^T and dP^T 32 each, P^T and dS^T 16 each,
// at D = 64 also K and V, 16 each. Shared memory: two slots of K and V, kStages stages of Q, dO, LSE, delta
// and limits: 166 KiB at D = 64 (6 stages), 194 KiB at D = 128 (2 stages).
#include <algorithm>

#include "kernels/cuda/attention/hopper_backward.cuh"
#include "kernels/cuda/attention/hopper_launch.cuh"

namespace perceiver::kernels::cuda::hopper {
namespace {

template <typename S>
struct DkDvLayout {
  static constexpr int kStages = S::D == 64 ? 6 : 2;
  static constexpr uint32_t kSlotBytes = 2 * S::kKeyBytes;  // K, V
  static constexpr uint32_t kStatisticsBytes = 2 * S::kQueries * 4, kLimitsBytes = S::kQueries * 4;
  static constexpr uint32_t kLoadedBytes = 2 * S::kQueryBytes + kStatisticsBytes + kLimitsBytes;
  static constexpr uint32_t kStageBytes = (kLoadedBytes + 1023) / 1024 * 1024;  // Q, dO, statistics, limits
  static constexpr uint32_t kFirstStage = 2 * kSlotBytes;
  static constexpr uint32_t kBarriers = kFirstStage + kStages * kStageBytes;
  // mbarriers: full and empty of each slot, full and empty of each stage. Then each slot's item.
  static constexpr uint32_t kItems = kBarriers + 8 * (4 + 2 * kStages);
  static constexpr uint32_t kSharedBytes = kItems + 2 * 8;
};

/// A key tile of a head, and the first query tile that sees any of it.
struct KeyItem {
  int index, first_tile;  // index < 0: no more work
};

template <typename S>
class DkDvBlock {
  using L = DkDvLayout<S>;
  static constexpr int D = S::D, kQueries = S::kQueries, kStages = L::kStages;

 public:
  __device__ DkDvBlock(const BackwardArguments& arguments, unsigned char* memory)
      : args_(arguments), a_(arguments.a.forward), memory_(memory), shared_(shared_address(memory)) {}

  __device__ void run() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < 2; ++i) {
        mbarrier_init(slot_full(i), 1);
        mbarrier_init(slot_empty(i), kConsumerArrivals);
      }
      for (int i = 0; i < kStages; ++i) {
        mbarrier_init(stage_full(i), 1);
        mbarrier_init(stage_empty(i), kConsumerArrivals);
      }
      fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < kWarpgroup) {
      warpgroup_reg_dealloc<kProducerRegisters>();
      if (threadIdx.x < 32) produce();
    } else {
      warpgroup_reg_alloc<kConsumerRegisters>();
      consume();
    }
  }

 private:
  __device__ uint32_t slot_full(int i) const { return shared_ + L::kBarriers + 8 * i; }
  __device__ uint32_t slot_empty(int i) const { return shared_ + L::kBarriers + 8 * (2 + i); }
  __device__ uint32_t stage_full(int i) const { return shared_ + L::kBarriers + 8 * (4 + i); }
  __device__ uint32_t stage_empty(int i) const { return shared_ + L::kBarriers + 8 * (4 + kStages + i); }
  __device__ uint32_t k_slot(int i) const { return shared_ + i * L::kSlotBytes; }
  __device__ uint32_t v_slot(int i) const { return k_slot(i) + S::kKeyBytes; }
  __device__ uint32_t q_stage(int i) const { return shared_ + L::kFirstStage + i * L::kStageBytes; }
  __device__ uint32_t d_out_stage(int i) const { return q_stage(i) + S::kQueryBytes; }
  __device__ const float* statistics(int i) const {
    return reinterpret_cast<const float*>(memory_ + L::kFirstStage + i * L::kStageBytes + 2 * S::kQueryBytes);
  }
  __device__ const int* limits(int i) const {
    return reinterpret_cast<const int*>(statistics(i) + 2 * kQueries);
  }
  __device__ KeyItem* item_slot(int i) const { return reinterpret_cast<KeyItem*>(memory_ + L::kItems) + i; }

  __device__ int key_tile(int item) const { return item % args_.key_tiles; }
  __device__ int head(int item) const { return item / args_.key_tiles % static_cast<int>(a_.heads); }
  __device__ int example(int item) const { return item / args_.key_tiles / static_cast<int>(a_.heads); }

  // --- Producer warp.

  __device__ void produce() const {
    const int items = args_.key_tiles * static_cast<int>(a_.heads * a_.batch);
    PipelineState<2> slots;
    PipelineState<kStages> stages;
    for (;; slots.advance()) {
      int item = 0;
      if (lane() == 0) item = atomicAdd(args_.next_item, 1);
      item = __shfl_sync(0xFFFFFFFFu, item, 0);
      mbarrier_wait(slot_empty(slots.stage), slots.phase ^ 1);
      if (item >= items) break;
      const int first_tile = first_query_tile(item);
      if (lane() == 0) load_keys(slots.stage, {item, first_tile});
      for (int tile = first_tile; tile < args_.query_tiles; ++tile, stages.advance()) {
        mbarrier_wait(stage_empty(stages.stage), stages.phase ^ 1);
        if (lane() == 0) load_queries(stages.stage, item, tile);
      }
    }
    if (lane() != 0) return;
    *item_slot(slots.stage) = {-1, 0};
    mbarrier_arrive(slot_full(slots.stage));
  }

  __device__ int first_query_tile(int item) const {
    const int32_t* limits = args_.limits + example(item) * args_.query_tiles * kQueries;
    const int first_key = key_tile(item) * kKeyTile;
    for (int from = 0;; from += 32) {
      const int tile = from + lane();
      const int last = min((tile + 1) * kQueries, static_cast<int>(a_.queries)) - 1;
      const bool sees = tile >= args_.query_tiles || limits[last] > first_key;
      const uint32_t found = __ballot_sync(0xFFFFFFFFu, sees);
      if (found != 0) return min(from + __ffs(static_cast<int>(found)) - 1, args_.query_tiles);
    }
  }

  __device__ void load_keys(int slot, KeyItem item) const {
    const int column = head(item.index) * D, row = key_tile(item.index) * kKeyTile, b = example(item.index);
    *item_slot(slot) = item;
    mbarrier_expect_tx(slot_full(slot), L::kSlotBytes);
    tma_load_tiles<S::kTiles>(k_slot(slot), kOwnTileBytes, &args_.k, slot_full(slot), column, row, b);
    tma_load_tiles<S::kTiles>(v_slot(slot), kOwnTileBytes, &args_.v, slot_full(slot), column, row, b);
    mbarrier_arrive(slot_full(slot));
  }

  __device__ void load_queries(int stage, int item, int tile) const {
    const int column = head(item) * D, row = tile * kQueries, b = example(item);
    const uint32_t full = stage_full(stage), after_tiles = q_stage(stage) + 2 * S::kQueryBytes;
    mbarrier_expect_tx(full, L::kLoadedBytes);
    tma_load_tiles<S::kTiles>(q_stage(stage), S::kQueryTileBytes, &args_.q, full, column, row, b);
    tma_load_tiles<S::kTiles>(d_out_stage(stage), S::kQueryTileBytes, &args_.d_out, full, column, row, b);
    const int64_t tile_of_head = (static_cast<int64_t>(b) * a_.heads + head(item)) * args_.query_tiles + tile;
    bulk_load(after_tiles, args_.statistics + tile_of_head * (2 * kQueries), full, L::kStatisticsBytes);
    bulk_load(after_tiles + L::kStatisticsBytes,
              args_.limits + (static_cast<int64_t>(b) * args_.query_tiles + tile) * kQueries, full,
              L::kLimitsBytes);
    mbarrier_arrive(full);
  }

  // --- Consumer warpgroups.

  __device__ void consume() {
    PipelineState<2> slots;
    PipelineState<kStages> stages;
    for (;; slots.advance()) {
      mbarrier_wait(slot_full(slots.stage), slots.phase);
      const KeyItem item = *item_slot(slots.stage);
      if (item.index < 0) return;
      find_keys(item.index);
      mainloop(slots.stage, item.first_tile, stages);
      // All four warps have read K and V, whose shared memory the epilogue reuses.
      named_barrier_sync(1 + consumer_warp() / 4);
      epilogue(slots.stage, item.index);
      fence_proxy_async();
      mbarrier_arrive_warp(slot_empty(slots.stage));
    }
  }

  /// Which of this thread's keys exist and pass the key mask.
  __device__ void find_keys(int item) {
    const int b = example(item), first = a_.first == nullptr ? 0 : a_.first[b];
    bool all = true;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      key_[r] = key_tile(item) * kKeyTile + consumer_warp() * 16 + r * 8 + lane() / 4;
      exists_[r] = key_[r] >= first && key_[r] < a_.keys;
      seen_[r] = exists_[r] && (a_.key_mask == nullptr || a_.key_mask[b * a_.keys + key_[r]] != 0);
      all = all && seen_[r];
    }
    all_seen_ = __all_sync(0xFFFFFFFFu, all);
    warp_end_ = key_tile(item) * kKeyTile + consumer_warp() * 16 + 16;
  }

  __device__ void mainloop(int slot, int first_tile, PipelineState<kStages>& stages) {
#pragma unroll
    for (int i = 0; i < D / 2; ++i) d_k_[i] = d_v_[i] = 0;
    if (first_tile >= args_.query_tiles) return;
    slot_ = slot;
    k_.load(k_slot(slot));
    v_.load(v_slot(slot));
    if constexpr (D == 64) {
      mainloop_overlapped(first_tile, stages);
    } else {
      mainloop_few_registers(first_tile, stages);
    }
    wgmma_wait<0>();
    wgmma_fence_operand(d_k_);
    wgmma_fence_operand(d_v_);
    mbarrier_arrive_warp(stage_empty(previous_));
  }

  __device__ void wait_for(const PipelineState<kStages>& stages) const {
    mbarrier_wait(stage_full(stages.stage), stages.phase);
  }

  /// The gradient products of the previous tile run while P and dS are computed.
  __device__ void mainloop_overlapped(int tile, PipelineState<kStages>& stages) {
    float s[32], d_p[32];
    uint32_t p[16], d_s[16];
    wait_for(stages);
    issue_scores(s, stages.stage);
    issue_probability_gradients(d_p, stages.stage);
    wgmma_wait<0>();
    softmax_and_gradients(tile, stages.stage, s, d_p);
    pack_both(s, d_p, p, d_s);
    previous_ = stages.stage;
    stages.advance();
    for (++tile; tile < args_.query_tiles; ++tile, stages.advance()) {
      wait_for(stages);
      issue_scores(s, stages.stage);
      issue_probability_gradients(d_p, stages.stage);
      add_gradients(previous_, p, d_s);
      wgmma_wait<1>();
      softmax_and_gradients(tile, stages.stage, s, d_p);
      wgmma_wait<0>();
      wgmma_fence_operand(d_k_);
      wgmma_fence_operand(d_v_);
      mbarrier_arrive_warp(stage_empty(previous_));
      previous_ = stages.stage;
      pack_both(s, d_p, p, d_s);
    }
    add_gradients(previous_, p, d_s);
  }

  /// Turns S and dP, whose products have completed, into P and dS.
  __device__ void softmax_and_gradients(int tile, int stage, float (&s)[32], float (&d_p)[32]) const {
    wgmma_fence_operand(s);
    wgmma_fence_operand(d_p);
    probabilities(tile, stage, s);
    score_gradients(stage, s, d_p);
    wgmma_fence_operand(s);
    wgmma_fence_operand(d_p);
  }
  __device__ static void pack_both(const float (&s)[32], const float (&d_p)[32], uint32_t (&p)[16],
                                   uint32_t (&d_s)[16]) {
    pack_a_fragment(s, p);
    pack_a_fragment(d_p, d_s);
    wgmma_fence_operand(p);
    wgmma_fence_operand(d_s);
  }

  /// Keeps P only as rounded; S overlaps the gradient products of the previous tile.
  __device__ void mainloop_few_registers(int tile, PipelineState<kStages>& stages) {
    float s[32], d_p[32];
    uint32_t p[16], d_s[16];
    previous_ = -1;
    for (; tile < args_.query_tiles; ++tile, stages.advance()) {
      const int stage = stages.stage;
      wait_for(stages);
      issue_scores(s, stage);
      if (previous_ >= 0) {
        wgmma_wait<1>();
        wgmma_fence_operand(d_k_);
        wgmma_fence_operand(d_v_);
        mbarrier_arrive_warp(stage_empty(previous_));
      }
      issue_probability_gradients(d_p, stage);
      wgmma_wait<1>();
      wgmma_fence_operand(s);
      probabilities(tile, stage, s);
      pack_a_fragment(s, p);
      wgmma_fence_operand(p);
      wgmma_fence();
      mma_ab<4>(d_v_, p, d_out_stage(stage), S::kQueryTileBytes);
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_fence_operand(d_p);
      score_gradients(stage, p, d_p, d_s);
      wgmma_fence_operand(d_s);
      wgmma_fence();
      mma_ab<4>(d_k_, d_s, q_stage(stage), S::kQueryTileBytes);
      wgmma_commit();
      previous_ = stage;
    }
  }

  __device__ void add_gradients(int stage, uint32_t (&p)[16], uint32_t (&d_s)[16]) {
    wgmma_fence();
    mma_ab<4>(d_v_, p, d_out_stage(stage), S::kQueryTileBytes);
    mma_ab<4>(d_k_, d_s, q_stage(stage), S::kQueryTileBytes);
    wgmma_commit();
  }

  __device__ void issue_scores(float (&s)[32], int stage) {
    k_.fence_operand();
    wgmma_fence();
    k_.multiply(s, k_slot(slot_), q_stage(stage), S::kQueryTileBytes);
    wgmma_commit();
  }
  __device__ void issue_probability_gradients(float (&d_p)[32], int stage) {
    v_.fence_operand();
    wgmma_fence();
    v_.multiply(d_p, v_slot(slot_), d_out_stage(stage), S::kQueryTileBytes);
    wgmma_commit();
  }

  __device__ void probabilities(int tile, int stage, float (&s)[32]) const {
    if (!all_seen_ || warp_end_ > limits(stage)[0]) hide(tile, stage, s);
    const float* lse = statistics(stage) + lane() % 4 * 2;
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const float2 x = *reinterpret_cast<const float2*>(lse + n * 8);
#pragma unroll
      for (int e = 0; e < 4; ++e)
        s[n * 4 + e] = exp2_fast(fmaf(s[n * 4 + e], args_.scale_log2, e % 2 == 0 ? -x.x : -x.y));
    }
  }

  /// Sets the scores of hidden keys to -infinity.
  __device__ void hide(int tile, int stage, float (&s)[32]) const {
    const int* limit = limits(stage);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const int column = n * 8 + lane() % 4 * 2;
      const int2 limit2 = *reinterpret_cast<const int2*>(limit + column);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int end = e == 0 ? limit2.x : limit2.y;
        const int own = a_.self_visible ? tile * kQueries + column + e : -1;
#pragma unroll
        for (int r = 0; r < 2; ++r)
          if (key_[r] >= end || !(seen_[r] || (exists_[r] && own == key_[r])))
            s[n * 4 + r * 2 + e] = -INFINITY;
      }
    }
  }

  /// dS = P (dP - delta), in place of dP.
  __device__ void score_gradients(int stage, const float (&p)[32], float (&d_p)[32]) const {
    const float* delta = statistics(stage) + kQueries + lane() % 4 * 2;
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const float2 x = *reinterpret_cast<const float2*>(delta + n * 8);
#pragma unroll
      for (int e = 0; e < 4; ++e) d_p[n * 4 + e] = p[n * 4 + e] * (d_p[n * 4 + e] - (e % 2 == 0 ? x.x : x.y));
    }
  }

  /// The same from rounded P; dS is rounded too.
  __device__ void score_gradients(int stage, const uint32_t (&p)[16], const float (&d_p)[32],
                                  uint32_t (&d_s)[16]) const {
    const float* delta = statistics(stage) + kQueries + lane() % 4 * 2;
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const float2 x = *reinterpret_cast<const float2*>(delta + n * 8);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 pair = unpack(p[n * 2 + r]);
        d_s[n * 2 + r] = pack(pair.x * (d_p[n * 4 + r * 2] - x.x), pair.y * (d_p[n * 4 + r * 2 + 1] - x.y));
      }
    }
  }

  __device__ void epilogue(int slot, int item) const {
    const int row = consumer_warp() * 16, key = key_tile(item) * kKeyTile + row;
    const int64_t offset =
        (static_cast<int64_t>(example(item)) * a_.keys + key) * a_.kv_stride + head(item) * D;
    const int left = static_cast<int>(a_.keys) - key;
    unsigned char* k = memory_ + slot * L::kSlotBytes;
    store_rows<D>(d_k_, args_.scale, args_.scale, k, kOwnTileBytes, row,
                  static_cast<__nv_bfloat16*>(args_.a.d_k) + offset, a_.kv_stride, left);
    store_rows<D>(d_v_, 1.0f, 1.0f, k + S::kKeyBytes, kOwnTileBytes, row,
                  static_cast<__nv_bfloat16*>(args_.a.d_v) + offset, a_.kv_stride, left);
  }

  const BackwardArguments& args_;
  const Attention& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  int key_[2], warp_end_;
  bool exists_[2], seen_[2], all_seen_;
  int slot_;
  int previous_;  // stage of the previous tile, whose products may be in flight, or -1
  OwnRows<D, D == 64> k_, v_;
  float d_k_[D / 2], d_v_[D / 2];
};

template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_dkdv_kernel(const __grid_constant__ BackwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  DkDvBlock<S>(a, memory).run();
#endif
}

}  // namespace

template <typename S>
void launch_dkdv(const Launch& launch, const BackwardArguments& arguments) {
  const Attention& k = arguments.a.forward;
  const int64_t items = arguments.key_tiles * k.heads * k.batch;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(items, launch.sm_count)));
  launch_attention(launch, "attention_hopper_dkdv_kernel", attention_hopper_dkdv_kernel<S>, grid,
                   DkDvLayout<S>::kSharedBytes, arguments);
}

template void launch_dkdv<BackwardShape<64>>(const Launch&, const BackwardArguments&);
template void launch_dkdv<BackwardShape<128>>(const Launch&, const BackwardArguments&);

}  // namespace perceiver::kernels::cuda::hopper
