// Attention backward on Hopper (compute capability 9.0a), in two kernels, so that every sum stays in
// registers and has one order: nothing is added in global memory, and the bits are the same in every run. S
// and dP are computed twice for it (7 products instead of 5), which costs less than adding dQ up in memory.
// One warpgroup feeds tiles by TMA through a ring of stages, two compute (wgmma), as in the forward kernel.
//
// Both walk over tiles of 64 rows of the other side. While the registers of one tile's S and dP become P and
// dS, the tensor cores have work from the same warpgroup: the gradients' products of the tile before, for dQ
// also S of the tile behind. At D = 64 the own rows are operands from registers throughout, which leaves the
// bandwidth of shared memory to the other operand. (dK and dV of heads of 128 take too many registers for
// that; there the compiler itself waits for each product.)
//
// dK and dV: a block takes tiles of 128 keys, 64 to a warpgroup, and walks over the queries that see them.
// Scores are held transposed, S^T = K Q^T and dP^T = V dO^T (keys by rows), so that P^T and dS^T are operands
// from registers of dV += P^T dO and dK += dS^T Q. Blocks stay and fetch the next tile of keys from a
// counter, whose K and V are copied while the last is worked on. Registers of a computing thread, of 240: dK
// and dV D / 2 each, S^T and dP^T 32 each, P^T and dS^T 16 each, at D = 64 also K and V, 16 each. Shared
// memory: two slots of K and V, kStages of Q, dO, log-sum-exp, delta and limits: 166 KiB at D = 64 (6
// stages), 194 KiB at D = 128 (2 stages).
//
// dQ: 128 queries a block, 64 to a warpgroup, as in the forward kernel: S = Q K^T, dP = dO V^T, dQ += dS K
// with dS from registers. Shared memory: Q, dO and stages of K and V: 160 KiB at D = 64 (8 stages), 192 KiB
// at D = 128 (4).
//
// A first kernel computes delta = rowsum(dO * O) and lays out what is read by tiles of queries.
#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/hopper/primitives.cuh"
#include "kernels/cuda/hopper/query_rows.cuh"
#include "kernels/cuda/hopper/roles.cuh"
#include "kernels/cuda/hopper/tensor_map.h"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kKeyTile = 128, kQueryTile = 128;
constexpr uint32_t kOwnTileBytes = 128 * kRowBytes;  // of 64 columns of the 128 rows that a block owns
constexpr float kLog2E = 1.4426950408889634f;

struct BackwardArguments {
  CUtensorMap q, d_out, k, v;                      // boxes of 64 and 128 rows: dK and dV
  CUtensorMap q_rows, d_out_rows, k_rows, v_rows;  // of 128 and 64 rows: dQ
  AttentionBackward a;
  float scale, scale_log2;
  int query_tiles, key_tiles;  // of kQueries, of 128
  float* statistics;           // [batch, heads, query_tiles, 2, kQueries]: log-sum-exp in base 2, delta
  int32_t* limits;             // [batch, query_tiles, kQueries], at most `keys`
  int* next_item;
};

/// Tiles of kQueries queries for dK and dV, of kKeys keys for dQ.
template <int kD>
struct Shape {
  static constexpr int D = kD, kTiles = D / kTileColumns;
  static constexpr int kQueries = 64, kKeys = 64;
  static constexpr uint32_t kKeyBytes = kTiles * kOwnTileBytes;
  static constexpr uint32_t kQueryTileBytes = kQueries * kRowBytes, kQueryBytes = kTiles * kQueryTileBytes;
};

// --- What both walks share.

/// The own side's operand of a product, a warpgroup's 64 rows of D columns of `tiles`: from shared memory, or
/// from registers (D = 64 alone), where it is loaded once.
template <int D, bool kRegisters>
struct OwnRows {
  __device__ void load(uint32_t) {}
  /// c = own rows · other rowsᵀ.
  __device__ void multiply(float (&c)[32], uint32_t tiles, uint32_t other, uint32_t other_bytes) const {
    product<D>(c, tiles + static_cast<uint32_t>(computing_warp() / 4 * 64 * kRowBytes), kOwnTileBytes, other,
               other_bytes);
  }
  __device__ void settle_all() {}
};
template <>
struct OwnRows<64, true> {
  __device__ void load(uint32_t tiles) { load_operand(operand_, tiles, computing_warp() * 16); }
  __device__ void multiply(float (&c)[32], uint32_t, uint32_t other, uint32_t other_bytes) const {
    product<4>(c, operand_, other, other_bytes);
  }
  __device__ void settle_all() { settle(operand_); }
  uint32_t operand_[16];
};

// --- dK and dV.

template <typename S>
struct KeyLayout {
  static constexpr int kStages = S::D == 64 ? 6 : 2;
  static constexpr uint32_t kSlotBytes = 2 * S::kKeyBytes;  // K, V
  static constexpr uint32_t kStatisticsBytes = 2 * S::kQueries * 4, kLimitsBytes = S::kQueries * 4;
  static constexpr uint32_t kCopied = 2 * S::kQueryBytes + kStatisticsBytes + kLimitsBytes;
  static constexpr uint32_t kStageBytes = (kCopied + 1023) / 1024 * 1024;  // Q, dO, statistics, limits
  static constexpr uint32_t kFirstStage = 2 * kSlotBytes;
  static constexpr uint32_t kBarriers = kFirstStage + kStages * kStageBytes;
  // For each slot: it has come, it is done with; for each stage likewise. Then each slot's item.
  static constexpr uint32_t kItems = kBarriers + 8 * (4 + 2 * kStages);
  static constexpr uint32_t kSharedBytes = kItems + 2 * 8;
};

/// A tile of keys of a head, and the first tile of queries that sees any of it.
struct KeyItem {
  int index, first_tile;  // index < 0: there are no more
};

template <typename S>
class KeyGradientBlock {
  using L = KeyLayout<S>;
  static constexpr int D = S::D, kQueries = S::kQueries, kStages = L::kStages;

 public:
  __device__ KeyGradientBlock(const BackwardArguments& arguments, unsigned char* memory)
      : args_(arguments), a_(arguments.a.forward), memory_(memory), shared_(shared_address(memory)) {}

  __device__ void run() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < 2; ++i) {
        barrier_init(slot_full(i), 1);
        barrier_init(slot_empty(i), kReleases);
      }
      for (int i = 0; i < kStages; ++i) {
        barrier_init(stage_full(i), 1);
        barrier_init(stage_empty(i), kReleases);
      }
      barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < kWarpgroup) {
      give_registers<kFeedingRegisters>();
      if (threadIdx.x < 32) feed();
    } else {
      take_registers<kComputingRegisters>();
      compute();
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

  // --- The feeding warp.

  __device__ void feed() const {
    const int items = args_.key_tiles * static_cast<int>(a_.heads * a_.batch);
    Ring<2> slots;
    Ring<kStages> stages;
    for (;; slots.advance()) {
      int item = 0;
      if (lane() == 0) item = atomicAdd(args_.next_item, 1);
      item = __shfl_sync(0xFFFFFFFFu, item, 0);
      barrier_wait(slot_empty(slots.stage), slots.round ^ 1);
      if (item >= items) break;
      const int first_tile = first_query_tile(item);
      if (lane() == 0) copy_keys(slots.stage, {item, first_tile});
      for (int tile = first_tile; tile < args_.query_tiles; ++tile, stages.advance()) {
        barrier_wait(stage_empty(stages.stage), stages.round ^ 1);
        if (lane() == 0) copy_queries(stages.stage, item, tile);
      }
    }
    if (lane() != 0) return;
    *item_slot(slots.stage) = {-1, 0};
    barrier_arrive(slot_full(slots.stage));
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

  __device__ void copy_keys(int slot, KeyItem item) const {
    const int column = head(item.index) * D, row = key_tile(item.index) * kKeyTile, b = example(item.index);
    *item_slot(slot) = item;
    barrier_expect(slot_full(slot), L::kSlotBytes);
    copy_boxes<S::kTiles>(k_slot(slot), kOwnTileBytes, &args_.k, slot_full(slot), column, row, b);
    copy_boxes<S::kTiles>(v_slot(slot), kOwnTileBytes, &args_.v, slot_full(slot), column, row, b);
    barrier_arrive(slot_full(slot));
  }

  __device__ void copy_queries(int stage, int item, int tile) const {
    const int column = head(item) * D, row = tile * kQueries, b = example(item);
    const uint32_t full = stage_full(stage), behind = q_stage(stage) + 2 * S::kQueryBytes;
    barrier_expect(full, L::kCopied);
    copy_boxes<S::kTiles>(q_stage(stage), S::kQueryTileBytes, &args_.q, full, column, row, b);
    copy_boxes<S::kTiles>(d_out_stage(stage), S::kQueryTileBytes, &args_.d_out, full, column, row, b);
    const int64_t tile_of_head = (static_cast<int64_t>(b) * a_.heads + head(item)) * args_.query_tiles + tile;
    copy_bytes(behind, args_.statistics + tile_of_head * (2 * kQueries), full, L::kStatisticsBytes);
    copy_bytes(behind + L::kStatisticsBytes,
               args_.limits + (static_cast<int64_t>(b) * args_.query_tiles + tile) * kQueries, full,
               L::kLimitsBytes);
    barrier_arrive(full);
  }

  // --- The computing warpgroups.

  __device__ void compute() {
    Ring<2> slots;
    Ring<kStages> stages;
    for (;; slots.advance()) {
      barrier_wait(slot_full(slots.stage), slots.round);
      const KeyItem item = *item_slot(slots.stage);
      if (item.index < 0) return;
      find_keys(item.index);
      walk(slots.stage, item.first_tile, stages);
      warpgroup_barrier(1 + computing_warp() /
                                4);  // All four warps have read K and V, whose place the results take.
      store(slots.stage, item.index);
      fence_copies();
      barrier_arrive_warp(slot_empty(slots.stage));
    }
  }

  /// Which of this thread's keys exist and pass the key mask.
  __device__ void find_keys(int item) {
    const int b = example(item), first = a_.first == nullptr ? 0 : a_.first[b];
    bool all = true;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      key_[r] = key_tile(item) * kKeyTile + computing_warp() * 16 + r * 8 + lane() / 4;
      exists_[r] = key_[r] >= first && key_[r] < a_.keys;
      seen_[r] = exists_[r] && (a_.key_mask == nullptr || a_.key_mask[b * a_.keys + key_[r]] != 0);
      all = all && seen_[r];
    }
    all_seen_ = __all_sync(0xFFFFFFFFu, all);
    warp_end_ = key_tile(item) * kKeyTile + computing_warp() * 16 + 16;
  }

  __device__ void walk(int slot, int first_tile, Ring<kStages>& stages) {
#pragma unroll
    for (int i = 0; i < D / 2; ++i) d_k_[i] = d_v_[i] = 0;
    if (first_tile >= args_.query_tiles) return;
    slot_ = slot;
    k_.load(k_slot(slot));
    v_.load(v_slot(slot));
    if constexpr (D == 64) {
      walk_overlapped(first_tile, stages);
    } else {
      walk_narrow(first_tile, stages);
    }
    products_wait<0>();
    settle(d_k_);
    settle(d_v_);
    barrier_arrive_warp(stage_empty(before_));
  }

  __device__ void wait_for(const Ring<kStages>& stages) const {
    barrier_wait(stage_full(stages.stage), stages.round);
  }

  /// The gradients of the tile before are under way while P and dS are computed.
  __device__ void walk_overlapped(int tile, Ring<kStages>& stages) {
    float s[32], d_p[32];
    uint32_t p[16], d_s[16];
    wait_for(stages);
    start_scores(s, stages.stage);
    start_probability_gradients(d_p, stages.stage);
    products_wait<0>();
    work(tile, stages.stage, s, d_p);
    pack_both(s, d_p, p, d_s);
    before_ = stages.stage;
    stages.advance();
    for (++tile; tile < args_.query_tiles; ++tile, stages.advance()) {
      wait_for(stages);
      start_scores(s, stages.stage);
      start_probability_gradients(d_p, stages.stage);
      add_gradients(before_, p, d_s);
      products_wait<1>();
      work(tile, stages.stage, s, d_p);
      products_wait<0>();
      settle(d_k_);
      settle(d_v_);
      barrier_arrive_warp(stage_empty(before_));
      before_ = stages.stage;
      pack_both(s, d_p, p, d_s);
    }
    add_gradients(before_, p, d_s);
  }

  /// S and dP, which are done, become P and dS.
  __device__ void work(int tile, int stage, float (&s)[32], float (&d_p)[32]) const {
    settle(s);
    settle(d_p);
    probabilities(tile, stage, s);
    score_gradients(stage, s, d_p);
    settle(s);
    settle(d_p);
  }
  __device__ static void pack_both(const float (&s)[32], const float (&d_p)[32], uint32_t (&p)[16],
                                   uint32_t (&d_s)[16]) {
    pack_operand(s, p);
    pack_operand(d_p, d_s);
    settle(p);
    settle(d_s);
  }

  /// With fewer registers: P is kept as it was rounded, and S runs beside the last gradients.
  __device__ void walk_narrow(int tile, Ring<kStages>& stages) {
    float s[32], d_p[32];
    uint32_t p[16], d_s[16];
    before_ = -1;
    for (; tile < args_.query_tiles; ++tile, stages.advance()) {
      const int stage = stages.stage;
      wait_for(stages);
      start_scores(s, stage);
      if (before_ >= 0) {
        products_wait<1>();
        settle(d_k_);
        settle(d_v_);
        barrier_arrive_warp(stage_empty(before_));
      }
      start_probability_gradients(d_p, stage);
      products_wait<1>();
      settle(s);
      probabilities(tile, stage, s);
      pack_operand(s, p);
      settle(p);
      products_begin();
      accumulate<4>(d_v_, p, d_out_stage(stage), S::kQueryTileBytes);
      products_commit();
      products_wait<1>();
      settle(d_p);
      score_gradients(stage, p, d_p, d_s);
      settle(d_s);
      products_begin();
      accumulate<4>(d_k_, d_s, q_stage(stage), S::kQueryTileBytes);
      products_commit();
      before_ = stage;
    }
  }

  __device__ void add_gradients(int stage, uint32_t (&p)[16], uint32_t (&d_s)[16]) {
    products_begin();
    accumulate<4>(d_v_, p, d_out_stage(stage), S::kQueryTileBytes);
    accumulate<4>(d_k_, d_s, q_stage(stage), S::kQueryTileBytes);
    products_commit();
  }

  __device__ void start_scores(float (&s)[32], int stage) {
    k_.settle_all();
    products_begin();
    k_.multiply(s, k_slot(slot_), q_stage(stage), S::kQueryTileBytes);
    products_commit();
  }
  __device__ void start_probability_gradients(float (&d_p)[32], int stage) {
    v_.settle_all();
    products_begin();
    v_.multiply(d_p, v_slot(slot_), d_out_stage(stage), S::kQueryTileBytes);
    products_commit();
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

  /// dP becomes dS = P (dP - delta).
  __device__ void score_gradients(int stage, const float (&p)[32], float (&d_p)[32]) const {
    const float* delta = statistics(stage) + kQueries + lane() % 4 * 2;
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const float2 x = *reinterpret_cast<const float2*>(delta + n * 8);
#pragma unroll
      for (int e = 0; e < 4; ++e) d_p[n * 4 + e] = p[n * 4 + e] * (d_p[n * 4 + e] - (e % 2 == 0 ? x.x : x.y));
    }
  }

  /// The same from P as it was rounded, rounded too.
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

  __device__ void store(int slot, int item) const {
    const int row = computing_warp() * 16, key = key_tile(item) * kKeyTile + row;
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
  int before_;  // stage of the tile before, whose products may be under way, or -1
  OwnRows<D, D == 64> k_, v_;
  float d_k_[D / 2], d_v_[D / 2];
};

// --- dQ.

template <typename S>
struct QueryLayout {
  static constexpr int kStages = S::D == 64 ? 8 : 4;
  static constexpr uint32_t kOwnBytes = S::kTiles * kOwnTileBytes;
  static constexpr uint32_t kKeyTileBytes = S::kKeys * kRowBytes, kKeyBytes = S::kTiles * kKeyTileBytes;
  static constexpr uint32_t kQ = 0, kDOut = kOwnBytes, kFirstStage = 2 * kOwnBytes,
                            kStageBytes = 2 * kKeyBytes;
  // One for Q and dO, then for each stage: it has come, it is done with.
  static constexpr uint32_t kBarriers = kFirstStage + kStages * kStageBytes;
  static constexpr uint32_t kSharedBytes = kBarriers + 8 * (1 + 2 * kStages);
};

template <typename S>
class QueryGradientBlock {
  using L = QueryLayout<S>;
  static constexpr int D = S::D, kKeys = S::kKeys, kStages = L::kStages;

 public:
  __device__ QueryGradientBlock(const BackwardArguments& arguments, unsigned char* memory)
      : args_(arguments),
        a_(arguments.a.forward),
        memory_(memory),
        shared_(shared_address(memory)),
        // The longest first.
        tile_(a_, static_cast<int>(gridDim.x - 1 - blockIdx.x), static_cast<int>(blockIdx.y),
              static_cast<int>(blockIdx.z)),
        key_tiles_(tile_.key_tiles<kKeys>()) {}

  __device__ void run() {
    if (threadIdx.x == 0) {
      barrier_init(own_barrier(), 1);
      for (int i = 0; i < kStages; ++i) {
        barrier_init(full(i), 1);
        barrier_init(empty(i), kReleases);
      }
      barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < kWarpgroup) {
      give_registers<kFeedingRegisters>();
      if (threadIdx.x == 0) feed();
    } else {
      take_registers<kComputingRegisters>();
      compute();
    }
  }

 private:
  __device__ uint32_t own_barrier() const { return shared_ + L::kBarriers; }
  __device__ uint32_t full(int i) const { return shared_ + L::kBarriers + 8 * (1 + i); }
  __device__ uint32_t empty(int i) const { return shared_ + L::kBarriers + 8 * (1 + kStages + i); }
  __device__ uint32_t k_stage(int i) const { return shared_ + L::kFirstStage + i * L::kStageBytes; }
  __device__ uint32_t v_stage(int i) const { return k_stage(i) + L::kKeyBytes; }

  __device__ void feed() const {
    if (key_tiles_ == 0) return;
    const int column = tile_.head * D;
    barrier_expect(own_barrier(), 2 * L::kOwnBytes);
    copy_boxes<S::kTiles>(shared_ + L::kQ, kOwnTileBytes, &args_.q_rows, own_barrier(), column,
                          tile_.first_query, tile_.example);
    copy_boxes<S::kTiles>(shared_ + L::kDOut, kOwnTileBytes, &args_.d_out_rows, own_barrier(), column,
                          tile_.first_query, tile_.example);
    barrier_arrive(own_barrier());
    Ring<kStages> ring;
    for (int t = key_tiles_ - 1; t >= 0; --t, ring.advance()) {
      const int row = tile_.first_key + t * kKeys;
      barrier_wait(empty(ring.stage), ring.round ^ 1);
      barrier_expect(full(ring.stage), L::kStageBytes);
      copy_boxes<S::kTiles>(k_stage(ring.stage), L::kKeyTileBytes, &args_.k_rows, full(ring.stage), column,
                            row, tile_.example);
      copy_boxes<S::kTiles>(v_stage(ring.stage), L::kKeyTileBytes, &args_.v_rows, full(ring.stage), column,
                            row, tile_.example);
      barrier_arrive(full(ring.stage));
    }
  }

  __device__ void compute() {
    const QueryRows<kKeys> rows(a_, tile_, computing_warp());
    clear(d_q_);
    if (key_tiles_ > 0) walk(rows);
    warpgroup_barrier(1 + computing_warp() / 4);  // All four warps have read Q, whose place the results take.
    const int row = computing_warp() * 16;
    __nv_bfloat16* target = static_cast<__nv_bfloat16*>(args_.a.d_q) +
                            (tile_.example * a_.queries + tile_.first_query + row) * a_.q_stride +
                            tile_.head * D;
    store_rows<D>(d_q_, args_.scale, args_.scale, memory_ + L::kQ, kOwnTileBytes, row, target, a_.q_stride,
                  tile_.query_count - row);
  }

  /// Log-sum-exp in base 2 (which 0) or delta (1) of row r; rows beyond the queries lie in the padding.
  __device__ float statistic(const QueryRows<kKeys>& rows, int which, int r) const {
    const int query = tile_.first_query + rows.row(r);
    const int64_t tile = (static_cast<int64_t>(tile_.example) * a_.heads + tile_.head) * args_.query_tiles +
                         query / S::kQueries;
    if (query >= a_.queries) return which == 0 ? INFINITY : 0.0f;
    return args_.statistics[(tile * 2 + which) * S::kQueries + query % S::kQueries];
  }

  __device__ void walk(const QueryRows<kKeys>& rows) {
    float lse[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      lse[r] = statistic(rows, 0, r);
      delta[r] = statistic(rows, 1, r);
    }
    barrier_wait(own_barrier(), 0);
    q_.load(shared_ + L::kQ);
    d_out_.load(shared_ + L::kDOut);
    float s[2][32], d_p[32];
    Ring<kStages> ring;
    before_ = -1;
    now_ = ring.stage;
    barrier_wait(full(now_), ring.round);
    ring.advance();
    start(q_, shared_ + L::kQ, s[0], k_stage(now_));
    start(d_out_, shared_ + L::kDOut, d_p, v_stage(now_));
    products_wait<0>();  // In the loop one batch more is under way.
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
    products_wait<0>();
    settle(d_q_);
  }

  /// Works on the tile in stage now_, whose S and dP are under way or done, and starts those of the next one.
  template <bool kMore>
  __device__ void step(const QueryRows<kKeys>& rows, int t, Ring<kStages>& ring, const float (&lse)[2],
                       const float (&delta)[2], float (&s)[32], float (&s_next)[32], float (&d_p)[32]) {
    const int next = ring.stage;
    if constexpr (kMore) {
      barrier_wait(full(next), ring.round);
      ring.advance();
      start(q_, shared_ + L::kQ, s_next, k_stage(next));
    }
    products_wait<1 + kMore>();  // S and dP are done; left are dQ of the tile before, and the next S.
    settle(s);
    settle(d_p);
    if (!rows.sees_all(t)) rows.hide(t, s);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float p = exp2_fast(fmaf(s[i], args_.scale_log2, -lse[i % 4 / 2]));
      s[i] = p * (d_p[i] - delta[i % 4 / 2]);
    }
    products_wait<kMore>();
    settle(d_q_);
    if (before_ >= 0) barrier_arrive_warp(empty(before_));
    uint32_t d_s[16];
    pack_operand(s, d_s);
    settle(d_s);
    if constexpr (kMore) start(d_out_, shared_ + L::kDOut, d_p, v_stage(next));
    products_begin();
    accumulate<4>(d_q_, d_s, k_stage(now_), L::kKeyTileBytes);
    products_commit();
    before_ = now_;
    if constexpr (kMore) now_ = next;
  }

  __device__ void start(OwnRows<D, D == 64>& own, uint32_t tiles, float (&c)[32], uint32_t other) {
    own.settle_all();
    products_begin();
    own.multiply(c, tiles, other, L::kKeyTileBytes);
    products_commit();
  }

  const BackwardArguments& args_;
  const Attention& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  const QueryTile tile_;
  const int key_tiles_;
  int before_, now_;  // as above
  OwnRows<D, D == 64> q_, d_out_;
  float d_q_[D / 2];
};

// --- Kernels.

template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_key_gradient_kernel(const __grid_constant__ BackwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  KeyGradientBlock<S>(a, memory).run();
#endif
}

template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_query_gradient_kernel(const __grid_constant__ BackwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  QueryGradientBlock<S>(a, memory).run();
#endif
}

/// D / 8 lanes to a query; rows beyond the queries see nothing.
template <typename S>
__global__ void __launch_bounds__(256)
    attention_hopper_statistics_kernel(const __grid_constant__ BackwardArguments a) {
  constexpr int kLanes = S::D / 8, kQueries = S::kQueries;
  const Attention& k = a.a.forward;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) / kLanes;
  const int chunk = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t padded = static_cast<int64_t>(a.query_tiles) * kQueries;
  const int64_t query = row % padded, head = row / padded % k.heads, example = row / padded / k.heads;
  const bool exists = example < k.batch && query < k.queries;
  float sum = 0;
  if (exists) {
    const int64_t offset = (example * k.queries + query) * k.out_stride + head * S::D + chunk * 8;
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

template <typename Body>
auto with_shape(int64_t head_dim, Body&& body) {
  return head_dim == 64 ? body.template operator()<Shape<64>>() : body.template operator()<Shape<128>>();
}

template <typename S>
BackwardArguments make_arguments(const AttentionBackward& a, Scratch scratch) {
  const Attention& k = a.forward;
  const int64_t width = k.heads * k.head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(k.head_dim));
  const auto queries = [&](const void* data, int64_t stride, int64_t rows) {
    return tensor_map(data, k.batch, k.queries, width, stride, rows);
  };
  const auto keys = [&](const void* data, int64_t rows) {
    return tensor_map(data, k.batch, k.keys, width, k.kv_stride, rows);
  };
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
  b.key_tiles = static_cast<int>(ceil_div(k.keys, kKeyTile));
  auto* memory = static_cast<unsigned char*>(scratch.data);
  b.statistics = reinterpret_cast<float*>(memory);
  b.limits = reinterpret_cast<int32_t*>(memory + statistics_bytes<S>(k));
  b.next_item = reinterpret_cast<int*>(memory + statistics_bytes<S>(k) + limits_bytes<S>(k));
  return b;
}

template <typename S>
void launch_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch) {
  const Attention& k = a.forward;
  const BackwardArguments arguments = make_arguments<S>(a, scratch);
  const cudaStream_t stream = stream_of(launch);
  const int64_t lanes = k.batch * k.heads * padded_queries<S>(k) * (S::D / 8);
  attention_hopper_statistics_kernel<S>
      <<<static_cast<unsigned>(ceil_div(lanes, 256)), 256, 0, stream>>>(arguments);
  check_launch("attention_hopper_statistics_kernel");

  constexpr uint32_t kKeyShared = KeyLayout<S>::kSharedBytes, kQueryShared = QueryLayout<S>::kSharedBytes;
  check(cudaFuncSetAttribute(attention_hopper_key_gradient_kernel<S>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kKeyShared),
        "attention_hopper_key_gradient_kernel");
  const int64_t items = arguments.key_tiles * k.heads * k.batch;
  attention_hopper_key_gradient_kernel<S>
      <<<static_cast<unsigned>(std::min<int64_t>(items, launch.sm_count)), kThreads, kKeyShared, stream>>>(
          arguments);
  check_launch("attention_hopper_key_gradient_kernel");

  check(cudaFuncSetAttribute(attention_hopper_query_gradient_kernel<S>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kQueryShared),
        "attention_hopper_query_gradient_kernel");
  const dim3 grid(static_cast<unsigned>(ceil_div(k.queries, kQueryTile)), static_cast<unsigned>(k.heads),
                  static_cast<unsigned>(k.batch));
  attention_hopper_query_gradient_kernel<S><<<grid, kThreads, kQueryShared, stream>>>(arguments);
  check_launch("attention_hopper_query_gradient_kernel");
}

}  // namespace

int64_t attention_hopper_backward_bytes(const AttentionBackward& a) {
  return with_shape(a.forward.head_dim, [&]<typename S>() {
    return statistics_bytes<S>(a.forward) + limits_bytes<S>(a.forward) + static_cast<int64_t>(sizeof(int));
  });
}

void attention_hopper_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch) {
  require(scratch.bytes >= attention_hopper_backward_bytes(a), "scratch memory for attention's backward");
  with_shape(a.forward.head_dim, [&]<typename S>() { launch_backward<S>(launch, a, scratch); });
}

}  // namespace perceiver::kernels::cuda
