// dQ of attention with heads of more than 128 channels (up to D = 256) on Hopper (compute capability 9.0a);
// see hopper_backward.cuh.
//
// As hopper_dq.cu: persistent blocks compute tiles of 128 queries, 64 to a warpgroup, in the order of
// Schedule, and iterate over tiles of 64 keys from the last visible one down. A warpgroup issues dQ += dS K
// of a tile, then dP = dO V^T and S = Q K^T of the next; while it computes dS of that, the tensor cores work
// for the other warpgroup. Q and dO of the next tile are loaded once the last S and dP of this one are
// complete.
//
// Registers of a consumer thread, of 240: dQ 128, S and dP 32 each, dS 16. Shared memory, 224 KiB: Q and dO,
// two stages of K, one of V: V of a tile is needed for dP alone, so that the next one has the time of the
// other products. dQ leaves through registers.
#include "kernels/cuda/attention/hopper_launch.cuh"
#include "kernels/cuda/attention/hopper_query_tiles.cuh"
#include "kernels/cuda/hopper/rotate_rows.cuh"
#include "kernels/cuda/hopper/schedule.cuh"

namespace perceiver::kernels::cuda::hopper {
namespace {

using Wide = BackwardShape<256>;

struct WideDqLayout {
  static constexpr int kStages = 2, kKeys = Wide::kKeys;
  static constexpr uint32_t kOwnBytes = Wide::kTiles * kOwnTileBytes;
  static constexpr uint32_t kKeyTileBytes = kKeys * kRowBytes, kKeyBytes = Wide::kTiles * kKeyTileBytes;
  static constexpr uint32_t kQ = 0, kDOut = kOwnBytes, kK = 2 * kOwnBytes, kV = kK + kStages * kKeyBytes;
  // mbarriers: full and empty of Q and dO, of V, of each stage of K. Then the works of this tile and the
  // next.
  static constexpr uint32_t kBarriers = kV + kKeyBytes;
  static constexpr uint32_t kWork = kBarriers + 8 * (4 + 2 * kStages);
  static constexpr uint32_t kSharedBytes = kWork + 2 * sizeof(DqWork);
};
static_assert(WideDqLayout::kSharedBytes <= 227 * 1024);

class WideDqBlock {
  using L = WideDqLayout;
  static constexpr int D = Wide::D, kKeys = L::kKeys, kStages = L::kStages;
  using Rows = QueryRows<kKeys>;

 public:
  __device__ WideDqBlock(const BackwardArguments& arguments, unsigned char* memory)
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
      wait_for_earlier_kernels();  // As in hopper_dq.cu.
    }
  }

 private:
  __device__ uint32_t barrier(int index) const { return shared_ + L::kBarriers + 8 * index; }
  __device__ uint32_t own_full() const { return barrier(0); }
  __device__ uint32_t own_empty() const { return barrier(1); }
  __device__ uint32_t v_full() const { return barrier(2); }
  __device__ uint32_t v_empty() const { return barrier(3); }
  __device__ uint32_t k_full(int stage) const { return barrier(4 + stage); }
  __device__ uint32_t k_empty(int stage) const { return barrier(4 + kStages + stage); }

  __device__ uint32_t k_stage(int stage) const { return shared_ + L::kK + stage * L::kKeyBytes; }
  __device__ DqWork& work(uint32_t parity) const {
    return reinterpret_cast<DqWork*>(memory_ + L::kWork)[parity];
  }

  __device__ void init_barriers() const {
    for (const uint32_t full : {own_full(), v_full()}) mbarrier_init(full, 1);
    for (const uint32_t empty : {own_empty(), v_empty()}) mbarrier_init(empty, kConsumerArrivals);
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(k_full(stage), 1);
      mbarrier_init(k_empty(stage), kConsumerArrivals);
    }
    fence_mbarrier_init();
  }

  // --- Producer thread.

  __device__ void produce() const {
    uint32_t parity = 0, v_parity = 0;  // of the numbers of the tile of queries and of the tile of keys
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
      for (int t = key_tiles - 1; t >= 0; --t, ring.advance(), v_parity ^= 1) {
        const int row = first_row + t * kKeys;
        mbarrier_wait(k_empty(ring.stage), ring.phase ^ 1);
        load_keys(k_stage(ring.stage), &args_.k_rows, k_full(ring.stage), tile, row);
        mbarrier_wait(v_empty(), v_parity ^ 1);
        load_keys(shared_ + L::kV, &args_.v_rows, v_full(), tile, row);
      }
    }
    mbarrier_wait(own_empty(), parity ^ 1);
    work(parity).key_tiles = 0;
    mbarrier_arrive(own_full());
  }

  __device__ void load_own(const QueryTile& tile) const {
    mbarrier_expect_tx(own_full(), 2 * L::kOwnBytes);
    tma_load_tiles<Wide::kTiles>(shared_ + L::kQ, kOwnTileBytes, &args_.q_rows, own_full(), tile.head,
                                 tile.first_query, tile.example);
    tma_load_tiles<Wide::kTiles>(shared_ + L::kDOut, kOwnTileBytes, &args_.d_out_rows, own_full(), tile.head,
                                 tile.first_query, tile.example);
  }
  __device__ void load_keys(uint32_t to, const CUtensorMap* map, uint32_t full, const QueryTile& tile,
                            int row) const {
    mbarrier_expect_tx(full, L::kKeyBytes);
    tma_load_tiles<Wide::kTiles>(to, L::kKeyTileBytes, map, full, tile.head, row, tile.example);
    mbarrier_arrive(full);
  }

  // --- Consumer warpgroups. Each issues all products unconditionally.

  __device__ void consume() {
    float s[32], d_p[32];
    uint32_t d_s[16];
    for (uint32_t parity = 0; wait_for_work(parity); parity ^= 1) {
      const DqWork& own = work(parity);
      const Rows rows(a_, own.tile, consumer_warp());
      load_statistics(rows, own.tile);
      pass_over_hidden(own);
      clear_accumulator(d_q_);
      issue_probability_gradients(d_p);
      issue_scores(s);
      for (int t = static_cast<int>(uniform(own.group_tiles[group_])) - 1;; --t) {
        wgmma_wait<1>();
        wgmma_fence_operand(d_p);
        release_v();
        wgmma_wait<0>();
        wgmma_fence_operand(s);
        if (t == 0) mbarrier_arrive_warp(own_empty());
        score_gradients(rows, t, s, d_p);
        pack_a_fragment(s, d_s);
        issue_gradients(d_s);
        if (t == 0) break;
        const int previous = ring_.stage;
        ring_.advance();
        issue_probability_gradients(d_p);
        issue_scores(s);
        wgmma_wait<2>();
        wgmma_fence_operand(d_q_);
        mbarrier_arrive_warp(k_empty(previous));
      }
      wgmma_wait<0>();
      wgmma_fence_operand(d_q_);
      mbarrier_arrive_warp(k_empty(ring_.stage));
      ring_.advance();
      // The producer describes the tile after the next in place of this one: once the last S of the next is
      // complete.
      epilogue(own.tile);
    }
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
                            query / Wide::kQueries;
      const float* statistics = args_.statistics + place * 2 * Wide::kQueries + query % Wide::kQueries;
      lse_[r] = query < a_.queries ? statistics[0] : INFINITY;
      delta_[r] = query < a_.queries ? statistics[Wide::kQueries] : 0.0f;
    }
  }

  __device__ void pass_over_hidden(const DqWork& own) {
    for (int t = uniform(own.key_tiles); t > static_cast<int>(uniform(own.group_tiles[group_])); --t) {
      mbarrier_wait(k_full(ring_.stage), ring_.phase);
      mbarrier_arrive_warp(k_empty(ring_.stage));
      ring_.advance();
      mbarrier_wait(v_full(), v_parity_);
      release_v();
    }
  }
  __device__ void release_v() {
    mbarrier_arrive_warp(v_empty());
    v_parity_ ^= 1;
  }

  /// dS from S and dP, in place of S.
  __device__ void score_gradients(const Rows& rows, int t, float (&s)[32], const float (&d_p)[32]) const {
    if (!rows.sees_all(t)) hide(rows, t, s);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float p = exp2_fast(fmaf(s[i], args_.scale_log2, -lse_[i % 4 / 2]));
      s[i] = p * (d_p[i] - delta_[i % 4 / 2]);
    }
  }

  /// Sets the scores of hidden keys to -infinity.
  __device__ void hide(const Rows& rows, int t, float (&s)[32]) const {
    if (a_.key_mask == nullptr) return rows.template hide_beyond_limits<kKeys>(t, s);
    rows.hide(t, s);
  }

  __device__ void issue_scores(float (&s)[32]) const {
    mbarrier_wait(k_full(ring_.stage), ring_.phase);
    issue_own(s, L::kQ, k_stage(ring_.stage));
  }
  __device__ void issue_probability_gradients(float (&d_p)[32]) const {
    mbarrier_wait(v_full(), v_parity_);
    issue_own(d_p, L::kDOut, shared_ + L::kV);
  }
  /// c = own rows · keysᵀ.
  __device__ void issue_own(float (&c)[32], uint32_t own, uint32_t keys) const {
    wgmma_fence();
    uniform_mm_abt<D>(c, shared_ + own + static_cast<uint32_t>(group_) * 64 * kRowBytes, kOwnTileBytes, keys,
                      L::kKeyTileBytes);
    wgmma_commit();
  }
  /// dQ += dS K of the current stage.
  __device__ void issue_gradients(uint32_t (&d_s)[16]) {
    wgmma_fence_operand(d_q_);
    wgmma_fence_operand(d_s);
    wgmma_fence();
    uniform_mma_ab<4>(d_q_, d_s, k_stage(ring_.stage), L::kKeyTileBytes);
    wgmma_commit();
  }

  /// Rotates dQ of the tile back and writes it.
  __device__ void epilogue(const QueryTile& tile) {
    const int row = consumer_warp() * 16, width = static_cast<int>(a_.head_dim);
    const int64_t first = tile.example * a_.queries + tile.first_query;
    rotate_rows_back<D>(d_q_, args_.a.q_rotary, tile.head, first + row + lane() / 4,
                        first + tile.query_count);
    __nv_bfloat16* target =
        static_cast<__nv_bfloat16*>(args_.a.d_q) + (first + row) * a_.q_stride + tile.head * width;
    exchange_and_store_rows<D>(d_q_, args_.scale, args_.scale, target, a_.q_stride, tile.query_count - row,
                               width);
  }

  const BackwardArguments& args_;
  const Attention& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  const int group_;              // of the consumers
  PipelineState<kStages> ring_;  // of the consumers: K
  uint32_t v_parity_ = 0;
  float lse_[2], delta_[2];
  float d_q_[D / 2];
};

__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_wide_dq_kernel(const __grid_constant__ BackwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  WideDqBlock(a, memory).run();
#endif
}

}  // namespace

template <>
void launch_dq<BackwardShape<256>>(const Launch& launch, BackwardArguments arguments) {
  const Attention& k = arguments.a.forward;
  const PersistentGrid grid(launch, k, k.queries, k.keys);
  arguments.section_heads = grid.section_heads;
  launch_attention<attention_hopper_wide_dq_kernel>(launch, "attention_hopper_wide_dq_kernel", grid.blocks,
                                                    WideDqLayout::kSharedBytes, arguments);
}

}  // namespace perceiver::kernels::cuda::hopper
