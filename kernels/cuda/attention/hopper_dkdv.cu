// dK and dV of attention on Hopper (compute capability 9.0a); see hopper_backward.cuh.
//
// Persistent blocks compute tiles of 128 keys, 64 to a warpgroup, and iterate over the tiles of 64 queries
// that see them. Scores are held transposed, S^T = K Q^T and dP^T = V dO^T (keys by rows), so that P^T and
// dS^T are register operands of dV += P^T dO and dK += dS^T Q. Blocks fetch the next key tile from a counter;
// its K and V are loaded into the other of two slots while the current one is in use. Between key tiles the
// first S and dP of the next are computed while dK and dV are written. A warpgroup passes over query tiles
// that see none of its 64 keys.
//
// Registers of a consumer thread, of 240: dK and dV D / 2 each, S^T and dP^T 32 each; up to D = 96 P^T and
// dS^T, 16 each, which above take the place of S^T and dP^T; up to D = 64 K and V, D / 4 each. Shared memory:
// two slots of K and V, kStages stages of Q, dO, LSE, delta and limits: 165 KiB up to D = 64 (6 stages), 226
// KiB above (3 stages).
#include "kernels/cuda/attention/hopper_key_tiles.cuh"
#include "kernels/cuda/attention/hopper_launch.cuh"
#include "kernels/cuda/attention/store_codes.cuh"
#include "kernels/cuda/hopper/rotate_rows.cuh"

namespace perceiver::kernels::cuda::hopper {
namespace {

template <typename S>
struct DkDvLayout {
  static constexpr int kStages = S::kTiles == 1 ? 6 : 3;
  static constexpr uint32_t kSlotBytes = 2 * S::kKeyBytes;     // K, V
  static constexpr uint32_t kStageBytes = 2 * S::kQueryBytes;  // Q, dO
  static constexpr uint32_t kLseAndDeltaBytes = 2 * S::kQueries * 4, kLimitsBytes = S::kQueries * 4;
  static constexpr uint32_t kStatisticsBytes = kLseAndDeltaBytes + kLimitsBytes;  // of a stage
  static constexpr uint32_t kFirstStage = 2 * kSlotBytes;
  static constexpr uint32_t kStatistics = kFirstStage + kStages * kStageBytes;
  static constexpr uint32_t kBarriers = kStatistics + kStages * kStatisticsBytes;
  // mbarriers: full and empty of each slot, full and empty of each stage. Then each slot's item.
  static constexpr uint32_t kItems = kBarriers + 8 * (4 + 2 * kStages);
  static constexpr uint32_t kSharedBytes = kItems + 2 * sizeof(KeyItem);
};

/// kCodes: leaves dK and dV in 8 bits.
template <typename S, bool kCodes>
class DkDvBlock {
  using L = DkDvLayout<S>;
  static constexpr int D = S::D, kQueries = S::kQueries, kStages = L::kStages;

 public:
  __device__ DkDvBlock(const BackwardArguments& arguments, unsigned char* memory)
      : args_(arguments),
        a_(arguments.a.forward),
        memory_(memory),
        shared_(shared_address(memory)),
        group_(uniform(consumer_warp() / 4)) {}

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
    start_after_earlier_kernels();
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
    return reinterpret_cast<const float*>(memory_ + L::kStatistics + i * L::kStatisticsBytes);
  }
  __device__ const int* limits(int i) const {
    return reinterpret_cast<const int*>(statistics(i) + 2 * kQueries);
  }
  __device__ KeyItem& item_slot(int i) const { return reinterpret_cast<KeyItem*>(memory_ + L::kItems)[i]; }

  /// With kCodes, behind the layout.
  __device__ GroupCodes& codes() const {
    return reinterpret_cast<CodesMemory*>(memory_ + codes_place(L::kSharedBytes))->own();
  }

  // --- Producer warp.

  __device__ void produce() const {
    PipelineState<2> slots;
    PipelineState<kStages> stages;
    const KeyItems items(args_);
    const int count = items.count();
    int index = items.fetch();
    for (; items.broadcast(index) < count; slots.advance()) {
      const KeyItem item = items.find<2>(items.broadcast(index));
      index = items.fetch();
      mbarrier_wait(slot_empty(slots.stage), slots.phase ^ 1);
      if (lane() == 0) load_keys(slots.stage, item);
      for (int tile = item.first_tile[0]; tile < args_.query_tiles; ++tile, stages.advance()) {
        mbarrier_wait(stage_empty(stages.stage), stages.phase ^ 1);
        if (lane() == 0) load_queries(stages.stage, item, tile);
      }
    }
    mbarrier_wait(slot_empty(slots.stage), slots.phase ^ 1);
    if (lane() != 0) return;
    item_slot(slots.stage).head = -1;
    mbarrier_arrive(slot_full(slots.stage));
  }

  __device__ void load_keys(int slot, const KeyItem& item) const {
    const int row = item.first_key;
    item_slot(slot) = item;
    mbarrier_expect_tx(slot_full(slot), L::kSlotBytes);
    tma_load_tiles<S::kTiles>(k_slot(slot), kOwnTileBytes, &args_.k, slot_full(slot), item.head, row,
                              item.example);
    tma_load_tiles<S::kTiles>(v_slot(slot), kOwnTileBytes, &args_.v, slot_full(slot), item.head, row,
                              item.example);
    mbarrier_arrive(slot_full(slot));
  }

  __device__ void load_queries(int stage, const KeyItem& item, int tile) const {
    const int row = tile * kQueries, b = item.example;
    const uint32_t full = stage_full(stage), to = shared_ + L::kStatistics + stage * L::kStatisticsBytes;
    mbarrier_expect_tx(full, L::kStageBytes + L::kStatisticsBytes);
    tma_load_tiles<S::kTiles>(q_stage(stage), S::kQueryTileBytes, &args_.q, full, item.head, row, b);
    tma_load_tiles<S::kTiles>(d_out_stage(stage), S::kQueryTileBytes, &args_.d_out, full, item.head, row, b);
    const int64_t tile_of_head = (static_cast<int64_t>(b) * a_.heads + item.head) * args_.query_tiles + tile;
    bulk_load(to, args_.statistics + tile_of_head * (2 * kQueries), full, L::kLseAndDeltaBytes);
    bulk_load(to + L::kLseAndDeltaBytes,
              args_.limits + (static_cast<int64_t>(b) * args_.query_tiles + tile) * kQueries, full,
              L::kLimitsBytes);
    mbarrier_arrive(full);
  }

  // --- Consumer warpgroups.

  __device__ void consume() {
    PipelineState<2> slots;
    float s[32], d_p[32];
    bool first = true;
    clear();
    if constexpr (kCodes) begin_codes(codes(), args_.quantize);
    for (; wait_for_item(slots); slots.advance(), first = false) {
      const KeyItem& item = item_slot(slots.stage);
      slot_ = slots.stage;
      rows_.find(a_, item);
      k_.load(k_slot(slot_));
      v_.load(v_slot(slot_));
      finish_gradients(first);
      pass_over_hidden(item);
      wait_for_stage();
      issue_scores(s);
      issue_probability_gradients(d_p);
      wgmma_wait<2>();  // Tells the compiler that dK and dV are complete.
      if (!first) epilogue(slot_ ^ 1);
      wgmma_wait<0>();
      clear();
      const int tile = static_cast<int>(uniform(item.first_tile[group_]));
      if constexpr (D <= 96) {
        mainloop_overlapped(tile, s, d_p);
      } else {
        mainloop_few_registers(tile, s, d_p);
      }
    }
    finish_gradients(first);
    if (!first) epilogue(slots.stage ^ 1);
    if constexpr (kCodes) end_codes(codes(), args_.quantize);
  }

  /// Whether there is another item.
  __device__ bool wait_for_item(const PipelineState<2>& slots) const {
    mbarrier_wait(slot_full(slots.stage), slots.phase);
    return static_cast<int>(uniform(item_slot(slots.stage).head)) >= 0;
  }

  __device__ void pass_over_hidden(const KeyItem& item) {
    const int end = static_cast<int>(uniform(item.first_tile[group_]));
    for (int tile = static_cast<int>(uniform(item.first_tile[0])); tile < end; ++tile) {
      wait_for_stage();
      mbarrier_arrive_warp(stage_empty(stages_.stage));
      stages_.advance();
    }
  }

  __device__ void clear() {
    clear_accumulator(d_k_);
    clear_accumulator(d_v_);
  }

  __device__ void wait_for_stage() const { mbarrier_wait(stage_full(stages_.stage), stages_.phase); }

  __device__ void release_previous() {
    wgmma_fence_operand(d_k_);
    wgmma_fence_operand(d_v_);
    mbarrier_arrive_warp(stage_empty(previous_));
  }

  /// Waits for the last products, before the stages that the next item passes over.
  __device__ void finish_gradients(bool none) {
    wgmma_wait<0>();
    if (!none) release_previous();
  }

  /// From the first S and dP, which are complete, up to the last products, which are issued. The gradient
  /// products of a tile run while P and dS of the next are computed.
  __device__ void mainloop_overlapped(int tile, float (&s)[32], float (&d_p)[32]) {
    uint32_t p[16], d_s[16];
    softmax_and_gradients(tile, stages_.stage, s, d_p);
    pack_both(s, d_p, p, d_s);
    next_stage();
    for (++tile; tile < args_.query_tiles; ++tile) {
      wait_for_stage();
      issue_scores(s);
      issue_probability_gradients(d_p);
      issue_gradients(p, d_s);
      wgmma_wait<1>();
      softmax_and_gradients(tile, stages_.stage, s, d_p);
      wgmma_wait<0>();
      release_previous();
      pack_both(s, d_p, p, d_s);
      next_stage();
    }
    issue_gradients(p, d_s);
  }
  __device__ void next_stage() {
    previous_ = stages_.stage;
    stages_.advance();
  }

  /// Turns S and dP, whose products have completed, into P and dS.
  __device__ void softmax_and_gradients(int tile, int stage, float (&s)[32], float (&d_p)[32]) const {
    wgmma_fence_operand(s);
    wgmma_fence_operand(d_p);
    probabilities(tile, stage, s);
    score_gradients(statistics(stage) + kQueries, s, d_p);
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

  /// The same above D = 96. Keeps P only as rounded; its product runs while dS is computed.
  __device__ void mainloop_few_registers(int tile, float (&s)[32], float (&d_p)[32]) {
    uint32_t p[16], d_s[16];
    for (;;) {
      wgmma_wait<1>();
      wgmma_fence_operand(s);
      probabilities(tile, stages_.stage, s);
      pack_a_fragment(s, p);
      issue_product(d_v_, p, d_out_stage(stages_.stage));
      wgmma_wait<1>();
      wgmma_fence_operand(d_p);
      score_gradients(statistics(stages_.stage) + kQueries, p, d_p, d_s);
      issue_product(d_k_, d_s, q_stage(stages_.stage));
      next_stage();
      if (++tile >= args_.query_tiles) break;
      wait_for_stage();
      wgmma_wait<1>();  // P and S share registers, dS and dP too.
      issue_scores(s);
      wgmma_wait<1>();
      release_previous();
      issue_probability_gradients(d_p);
    }
  }

  /// The gradient products of the tile in stage previous_.
  __device__ void issue_gradients(uint32_t (&p)[16], uint32_t (&d_s)[16]) {
    wgmma_fence_operand(d_v_);
    wgmma_fence_operand(d_k_);
    wgmma_fence();
    uniform_mma_ab<4>(d_v_, p, d_out_stage(previous_), S::kQueryTileBytes);
    uniform_mma_ab<4>(d_k_, d_s, q_stage(previous_), S::kQueryTileBytes);
    wgmma_commit();
  }
  __device__ void issue_product(float (&c)[D / 2], uint32_t (&a)[16], uint32_t b) {
    wgmma_fence_operand(c);
    wgmma_fence_operand(a);
    wgmma_fence();
    uniform_mma_ab<4>(c, a, b, S::kQueryTileBytes);
    wgmma_commit();
  }

  __device__ void issue_scores(float (&s)[32]) {
    k_.fence_operand();
    wgmma_fence();
    k_.multiply(s, k_slot(slot_), group_, q_stage(stages_.stage), S::kQueryTileBytes);
    wgmma_commit();
  }
  __device__ void issue_probability_gradients(float (&d_p)[32]) {
    v_.fence_operand();
    wgmma_fence();
    v_.multiply(d_p, v_slot(slot_), group_, d_out_stage(stages_.stage), S::kQueryTileBytes);
    wgmma_commit();
  }

  __device__ void probabilities(int tile, int stage, float (&s)[32]) const {
    if (!rows_.all_seen() || rows_.warp_end() > limits(stage)[0]) rows_.hide(a_, limits(stage), tile, s);
    hopper::probabilities(statistics(stage), args_.scale_log2, s);
  }

  /// Rotates dK of the item in `slot` back, writes dK and dV, and releases the slot.
  __device__ void epilogue(int slot) {
    const KeyItem& item = item_slot(slot);
    const int row = consumer_warp() * 16, key = item.first_key + row, width = static_cast<int>(a_.head_dim);
    const int64_t first = item.example * a_.keys;
    const int64_t offset = (first + key) * a_.kv_stride + item.head * width;
    rotate_rows_back<D>(d_k_, args_.a.k_rotary, item.head, first + key + lane() / 4, first + a_.keys);
    const int left = static_cast<int>(a_.keys) - key;
    // All four warps have read K and V, whose shared memory is reused.
    named_barrier_sync(1 + group_);
    unsigned char* k = memory_ + slot * L::kSlotBytes;
    if constexpr (kCodes) {
      write_codes(k, item);
    } else {
      store_rows<D>(d_k_, args_.scale, args_.scale, k, kOwnTileBytes, row,
                    static_cast<__nv_bfloat16*>(args_.a.d_k) + offset, a_.kv_stride, left, width);
      store_rows<D>(d_v_, 1.0f, 1.0f, k + S::kKeyBytes, kOwnTileBytes, row,
                    static_cast<__nv_bfloat16*>(args_.a.d_v) + offset, a_.kv_stride, left, width);
    }
    fence_proxy_async();
    mbarrier_arrive_warp(slot_empty(slot));
  }

  /// There are as many queries as keys.
  __device__ void write_codes(unsigned char* tiles, const KeyItem& item) {
    const int begin = group_ * kCodeRows, key = item.first_key + begin;
    const int64_t head = static_cast<int64_t>(item.head) * D;
    HeadPlace at{.row = item.example * a_.keys + key,
                 .column = args_.k_column + head,
                 .rows_left = static_cast<int>(a_.keys) - key,
                 .part = item.example * args_.query_tiles + key / kCodeRows};
    store_codes<__NV_E5M2, false>(d_k_, args_.scale, args_.scale, tiles, begin, codes(), 1 + group_,
                                  args_.quantize, at, args_.sum_parts);
    at.column = args_.v_column + head;
    store_codes<__NV_E5M2, false>(d_v_, 1.0f, 1.0f, tiles + S::kKeyBytes, begin, codes(), 1 + group_,
                                  args_.quantize, at, args_.sum_parts);
  }

  const BackwardArguments& args_;
  const Attention& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  KeyRows rows_;
  const int group_;                // of the consumers
  PipelineState<kStages> stages_;  // of the consumers
  int slot_;                       // of K and V
  int previous_;                   // stage of the previous tile
  OwnRows<D, S::kOwnInRegisters> k_, v_;
  float d_k_[D / 2], d_v_[D / 2];
};

template <typename S, bool kCodes>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_dkdv_kernel(const __grid_constant__ BackwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  DkDvBlock<S, kCodes>(a, memory).run();
#endif
}

}  // namespace

template <typename S, bool kCodes>
void launch_dkdv(const Launch& launch, BackwardArguments arguments) {
  const Attention& k = arguments.a.forward;
  const PersistentGrid grid(launch, k, k.keys, k.queries);
  arguments.section_heads = grid.section_heads;
  launch_attention<attention_hopper_dkdv_kernel<S, kCodes>>(
      launch, "attention_hopper_dkdv_kernel", grid.blocks, shared_bytes<kCodes>(DkDvLayout<S>::kSharedBytes),
      arguments);
}

template void launch_dkdv<BackwardShape<32>>(const Launch&, BackwardArguments);
template void launch_dkdv<BackwardShape<64>>(const Launch&, BackwardArguments);
template void launch_dkdv<BackwardShape<64>, true>(const Launch&, BackwardArguments);
template void launch_dkdv<BackwardShape<96>>(const Launch&, BackwardArguments);
template void launch_dkdv<BackwardShape<128>>(const Launch&, BackwardArguments);

}  // namespace perceiver::kernels::cuda::hopper
