// dK and dV of attention with heads of more than 128 channels (up to D = 256) on Hopper (compute capability
// 9.0a); see hopper_backward.cuh.
//
// dK and dV of 64 keys fill the registers of two warpgroups, so one has dV and the other dK, of the same tile
// of 64 keys. Over the tiles of 64 queries that see them the first computes S^T = K Q^T and P^T, the second
// dP^T = V dO^T and dS^T = P^T (dP^T - delta), for which it gets P^T, rounded, through shared memory: a
// thread's elements go to the thread of the same place. Both are register operands of dV += P^T dO and
// dK += dS^T Q. Each warpgroup issues the gradient product of a tile and then the scores of the next; while
// it computes exponentials or dS the tensor cores work for the other one. A gradient product comes first
// because it ends the use of its stage.
//
// Blocks fetch the next key tile from a counter, as in hopper_dkdv.cu.
//
// Registers of a consumer thread, of 240: dK or dV 128, scores 32, the operand of the gradients 16. Shared
// memory, 210 KiB: K and V, two stages of Q and two of dO, each 32 KiB; two buffers of P^T, 8 KiB each. dK
// and dV leave through registers. A tile takes the tensor cores 2,048 cycles; its 64 KiB of Q and dO take the
// L2 cache some 2,600, which is the limit.
#include "kernels/cuda/attention/hopper_key_tiles.cuh"
#include "kernels/cuda/attention/hopper_launch.cuh"
#include "kernels/cuda/hopper/rotate_rows.cuh"

namespace perceiver::kernels::cuda::hopper {
namespace {

using Wide = BackwardShape<256>;

struct WideLayout {
  static constexpr int kStages = 2, kKeys = 64, kQueries = Wide::kQueries;
  static constexpr uint32_t kTileBytes = 64 * kRowBytes;           // 64 rows of 64 columns
  static constexpr uint32_t kBytes = Wide::kTiles * kTileBytes;    // of 64 rows
  static constexpr uint32_t kExchangeBytes = kWarpgroup * 16 * 4;  // of P^T
  static constexpr uint32_t kVectorBytes = kQueries * 4;  // LSE and limits of a stage of Q, delta of dO
  static constexpr uint32_t kK = 0, kV = kBytes, kQ = 2 * kBytes, kDOut = kQ + kStages * kBytes;
  static constexpr uint32_t kExchange = kDOut + kStages * kBytes;
  static constexpr uint32_t kLse = kExchange + 2 * kExchangeBytes, kLimits = kLse + kStages * kVectorBytes,
                            kDelta = kLimits + kStages * kVectorBytes;
  // mbarriers: full and empty of K, of V, of each stage of Q, of each stage of dO, of each buffer of P^T.
  // Then the items of this tile of keys and the next.
  static constexpr uint32_t kBarriers = kDelta + kStages * kVectorBytes;
  static constexpr uint32_t kItems = kBarriers + 8 * (4 + 4 * kStages + 4);
  static constexpr uint32_t kSharedBytes = kItems + 2 * sizeof(KeyItem);
  static constexpr uint32_t kGroupArrivals = kConsumerArrivals / 2;
};
static_assert(Wide::kQueries == kBackwardQueries && WideLayout::kSharedBytes <= 227 * 1024);

class WideDkDvBlock {
  using L = WideLayout;
  static constexpr int D = Wide::D, kStages = L::kStages;
  using Ring = PipelineState<kStages>;

 public:
  __device__ WideDkDvBlock(const BackwardArguments& arguments, unsigned char* memory)
      : args_(arguments), a_(arguments.a.forward), memory_(memory), shared_(shared_address(memory)) {}

  __device__ void run() {
    if (threadIdx.x == 0) init_barriers();
    __syncthreads();
    start_after_earlier_kernels();
    if (threadIdx.x < kWarpgroup) {
      warpgroup_reg_dealloc<kProducerRegisters>();
      if (threadIdx.x < 32) produce();
    } else {
      warpgroup_reg_alloc<kConsumerRegisters>();
      if (uniform(consumer_warp() / 4) == 0) {
        compute_values();
      } else {
        compute_keys();
      }
    }
  }

 private:
  __device__ uint32_t barrier(int index) const { return shared_ + L::kBarriers + 8 * index; }
  __device__ uint32_t k_full() const { return barrier(0); }
  __device__ uint32_t k_empty() const { return barrier(1); }
  __device__ uint32_t v_full() const { return barrier(2); }
  __device__ uint32_t v_empty() const { return barrier(3); }
  __device__ uint32_t q_full(int stage) const { return barrier(4 + stage); }
  __device__ uint32_t q_empty(int stage) const { return barrier(4 + kStages + stage); }
  __device__ uint32_t d_out_full(int stage) const { return barrier(4 + 2 * kStages + stage); }
  __device__ uint32_t d_out_empty(int stage) const { return barrier(4 + 3 * kStages + stage); }
  __device__ uint32_t p_full(int buffer) const { return barrier(4 + 4 * kStages + buffer); }
  __device__ uint32_t p_empty(int buffer) const { return barrier(6 + 4 * kStages + buffer); }

  __device__ uint32_t q_stage(int stage) const { return shared_ + L::kQ + stage * L::kBytes; }
  __device__ uint32_t d_out_stage(int stage) const { return shared_ + L::kDOut + stage * L::kBytes; }
  /// LSE and delta of the queries in a stage; limits.
  template <typename T = float>
  __device__ const T* vector(uint32_t first, int stage) const {
    return reinterpret_cast<const T*>(memory_ + first + stage * L::kVectorBytes);
  }
  /// This thread's 16 words of P^T, four at a time.
  __device__ uint4* exchange(int buffer) const {
    return reinterpret_cast<uint4*>(memory_ + L::kExchange + buffer * L::kExchangeBytes) +
           threadIdx.x % kWarpgroup;
  }
  __device__ KeyItem& item(uint32_t parity) const {
    return reinterpret_cast<KeyItem*>(memory_ + L::kItems)[parity];
  }

  __device__ void init_barriers() const {
    for (const uint32_t full : {k_full(), v_full()}) mbarrier_init(full, 1);
    for (const uint32_t empty : {k_empty(), v_empty()}) mbarrier_init(empty, L::kGroupArrivals);
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(q_full(stage), 1);
      mbarrier_init(q_empty(stage), kConsumerArrivals);
      mbarrier_init(d_out_full(stage), 1);
      mbarrier_init(d_out_empty(stage), kConsumerArrivals);
    }
    for (int buffer = 0; buffer < 2; ++buffer) {
      mbarrier_init(p_full(buffer), L::kGroupArrivals);
      mbarrier_init(p_empty(buffer), L::kGroupArrivals);
    }
    fence_mbarrier_init();
  }

  // --- Producer warp.

  __device__ void produce() const {
    const KeyItems items(args_);
    const int count = items.count();
    Ring ring;
    uint32_t parity = 0;  // of the number of the item
    int index = items.fetch();
    for (; items.broadcast(index) < count; parity ^= 1) {
      const KeyItem next = items.find<1>(items.broadcast(index));
      index = items.fetch();
      // Both warpgroups have left the item before the previous one when they have released its keys.
      mbarrier_wait(k_empty(), parity ^ 1);
      mbarrier_wait(v_empty(), parity ^ 1);
      if (lane() == 0) load_keys(next, parity);
      for (int tile = next.first_tile[0]; tile < args_.query_tiles; ++tile, ring.advance()) {
        mbarrier_wait(q_empty(ring.stage), ring.phase ^ 1);
        if (lane() == 0) load_q(ring.stage, next, tile);
        mbarrier_wait(d_out_empty(ring.stage), ring.phase ^ 1);
        if (lane() == 0) load_d_out(ring.stage, next, tile);
      }
    }
    mbarrier_wait(k_empty(), parity ^ 1);
    mbarrier_wait(v_empty(), parity ^ 1);
    if (lane() != 0) return;
    item(parity).head = -1;
    mbarrier_arrive(k_full());
    mbarrier_arrive(v_full());
  }

  __device__ void load_keys(const KeyItem& next, uint32_t parity) const {
    item(parity) = next;
    load(shared_ + L::kK, &args_.k_rows, k_full(), next, next.first_key);
    mbarrier_arrive(k_full());
    load(shared_ + L::kV, &args_.v_rows, v_full(), next, next.first_key);
    mbarrier_arrive(v_full());
  }
  __device__ void load_q(int stage, const KeyItem& of, int tile) const {
    const uint32_t full = q_full(stage);
    load(q_stage(stage), &args_.q, full, of, tile * L::kQueries);
    load_vector(L::kLse, stage, statistics(of, tile), full);
    load_vector(L::kLimits, stage,
                args_.limits + (static_cast<int64_t>(of.example) * args_.query_tiles + tile) * L::kQueries,
                full);
    mbarrier_arrive(full);
  }
  __device__ void load_d_out(int stage, const KeyItem& of, int tile) const {
    const uint32_t full = d_out_full(stage);
    load(d_out_stage(stage), &args_.d_out, full, of, tile * L::kQueries);
    load_vector(L::kDelta, stage, statistics(of, tile) + L::kQueries, full);
    mbarrier_arrive(full);
  }
  __device__ const float* statistics(const KeyItem& of, int tile) const {
    const int64_t head = static_cast<int64_t>(of.example) * a_.heads + of.head;
    return args_.statistics + (head * args_.query_tiles + tile) * (2 * L::kQueries);
  }
  __device__ void load(uint32_t to, const CUtensorMap* map, uint32_t full, const KeyItem& of, int row) const {
    mbarrier_expect_tx(full, L::kBytes);
    tma_load_tiles<Wide::kTiles>(to, L::kTileBytes, map, full, of.head, row, of.example);
  }
  __device__ void load_vector(uint32_t first, int stage, const void* from, uint32_t full) const {
    mbarrier_expect_tx(full, L::kVectorBytes);
    bulk_load(shared_ + first + stage * L::kVectorBytes, from, full, L::kVectorBytes);
  }

  // --- Consumer warpgroups. Each issues all products unconditionally.

  /// dV.
  __device__ void compute_values() {
    float d_v[D / 2], s[32];
    uint32_t p[16];
    KeyRows rows;
    for (uint32_t parity = 0;; parity ^= 1) {
      mbarrier_wait(k_full(), parity);
      const KeyItem& own = item(parity);
      if (static_cast<int>(uniform(own.head)) < 0) return;
      rows.find(a_, own);
      int tile = static_cast<int>(uniform(own.first_tile[0]));
      clear_accumulator(d_v);
      issue_scores(s, shared_ + L::kK, q_full(ring_.stage), q_stage(ring_.stage));
      wgmma_wait<0>();
      wgmma_fence_operand(s);
      for (;;) {
        const int* limits = vector<int>(L::kLimits, ring_.stage);
        if (!rows.all_seen() || rows.warp_end() > limits[0]) rows.hide(a_, limits, tile, s);
        probabilities(vector(L::kLse, ring_.stage), args_.scale_log2, s);
        mbarrier_arrive_warp(q_empty(ring_.stage));
        pack_a_fragment(s, p);
        send(p);
        if (++tile >= args_.query_tiles) break;
        issue_gradients(d_v, p, d_out_full(ring_.stage), d_out_stage(ring_.stage));
        const int previous = ring_.stage;
        ring_.advance();
        issue_scores(s, shared_ + L::kK, q_full(ring_.stage), q_stage(ring_.stage));
        wgmma_wait<1>();
        wgmma_fence_operand(d_v);
        mbarrier_arrive_warp(d_out_empty(previous));
        wgmma_wait<0>();
        wgmma_fence_operand(s);
      }
      // K and the item's description are needed no longer but for where dV goes.
      const KeyItem done = own;
      mbarrier_arrive_warp(k_empty());
      issue_gradients(d_v, p, d_out_full(ring_.stage), d_out_stage(ring_.stage));
      wgmma_wait<0>();
      wgmma_fence_operand(d_v);
      mbarrier_arrive_warp(d_out_empty(ring_.stage));
      ring_.advance();
      write(done, d_v, 1.0f, args_.a.d_v);
    }
  }

  /// dK.
  __device__ void compute_keys() {
    float d_k[D / 2], d_p[32];
    uint32_t p[16], d_s[16];
    for (uint32_t parity = 0;; parity ^= 1) {
      mbarrier_wait(v_full(), parity);
      const KeyItem& own = item(parity);
      if (static_cast<int>(uniform(own.head)) < 0) return;
      int tile = static_cast<int>(uniform(own.first_tile[0]));
      clear_accumulator(d_k);
      issue_scores(d_p, shared_ + L::kV, d_out_full(ring_.stage), d_out_stage(ring_.stage));
      wgmma_wait<0>();
      wgmma_fence_operand(d_p);
      for (;;) {
        receive(p);
        score_gradients(vector(L::kDelta, ring_.stage), p, d_p, d_s);
        mbarrier_arrive_warp(d_out_empty(ring_.stage));
        if (++tile >= args_.query_tiles) break;
        issue_gradients(d_k, d_s, q_full(ring_.stage), q_stage(ring_.stage));
        const int previous = ring_.stage;
        ring_.advance();
        issue_scores(d_p, shared_ + L::kV, d_out_full(ring_.stage), d_out_stage(ring_.stage));
        wgmma_wait<1>();
        wgmma_fence_operand(d_k);
        mbarrier_arrive_warp(q_empty(previous));
        wgmma_wait<0>();
        wgmma_fence_operand(d_p);
      }
      const KeyItem done = own;
      mbarrier_arrive_warp(v_empty());
      issue_gradients(d_k, d_s, q_full(ring_.stage), q_stage(ring_.stage));
      wgmma_wait<0>();
      wgmma_fence_operand(d_k);
      mbarrier_arrive_warp(q_empty(ring_.stage));
      ring_.advance();
      const int64_t first = static_cast<int64_t>(done.example) * a_.keys;
      rotate_rows_back<D>(d_k, args_.a.k_rotary, done.head, first + done.first_key + group_row() + lane() / 4,
                          first + a_.keys);
      write(done, d_k, args_.scale, args_.a.d_k);
    }
  }

  /// c = own keys · queriesᵀ, once the queries are there.
  __device__ void issue_scores(float (&c)[32], uint32_t keys, uint32_t full, uint32_t queries) const {
    mbarrier_wait(full, ring_.phase);
    wgmma_fence();
    uniform_mm_abt<D>(c, keys, L::kTileBytes, queries, L::kTileBytes);
    wgmma_commit();
  }
  /// c += a · queries.
  __device__ void issue_gradients(float (&c)[D / 2], uint32_t (&a)[16], uint32_t full,
                                  uint32_t queries) const {
    mbarrier_wait(full, ring_.phase);
    wgmma_fence_operand(c);
    wgmma_fence_operand(a);
    wgmma_fence();
    uniform_mma_ab<4>(c, a, queries, L::kTileBytes);
    wgmma_commit();
  }

  /// P^T from the warpgroup of dV to that of dK.
  __device__ void send(const uint32_t (&p)[16]) {
    mbarrier_wait(p_empty(exchange_.stage), exchange_.phase ^ 1);
    uint4* const to = exchange(exchange_.stage);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      to[i * kWarpgroup] = make_uint4(p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]);
    mbarrier_arrive_warp(p_full(exchange_.stage));
    exchange_.advance();
  }
  __device__ void receive(uint32_t (&p)[16]) {
    mbarrier_wait(p_full(exchange_.stage), exchange_.phase);
    const uint4* const from = exchange(exchange_.stage);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 x = from[i * kWarpgroup];
      p[4 * i] = x.x, p[4 * i + 1] = x.y, p[4 * i + 2] = x.z, p[4 * i + 3] = x.w;
    }
    mbarrier_arrive_warp(p_empty(exchange_.stage));
    exchange_.advance();
  }

  /// The first row of this warp among the warpgroup's.
  __device__ static int group_row() {
    return consumer_warp() % 4 * 16;
  }

  __device__ void write(const KeyItem& done, const float (&c)[D / 2], float factor, void* gradient) const {
    const int key = done.first_key + group_row(), width = static_cast<int>(a_.head_dim);
    const int64_t offset = (done.example * a_.keys + key) * a_.kv_stride + done.head * width;
    exchange_and_store_rows<D>(c, factor, factor, static_cast<__nv_bfloat16*>(gradient) + offset,
                               a_.kv_stride, static_cast<int>(a_.keys) - key, width);
  }

  const BackwardArguments& args_;
  const Attention& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  Ring ring_;                  // of a warpgroup: Q and dO
  PipelineState<2> exchange_;  // of a warpgroup
};

__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_wide_dkdv_kernel(const __grid_constant__ BackwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  WideDkDvBlock(a, memory).run();
#endif
}

}  // namespace

template <>
void launch_dkdv<BackwardShape<256>>(const Launch& launch, BackwardArguments arguments) {
  const Attention& k = arguments.a.forward;
  const PersistentGrid grid(launch, k, k.keys, k.queries, WideLayout::kKeys);
  arguments.section_heads = grid.section_heads;
  launch_attention<attention_hopper_wide_dkdv_kernel>(launch, "attention_hopper_wide_dkdv_kernel",
                                                      grid.blocks, WideLayout::kSharedBytes, arguments);
}

}  // namespace perceiver::kernels::cuda::hopper
