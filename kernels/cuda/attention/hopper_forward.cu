// Attention forward on Hopper (compute capability 9.0a), after FlashAttention-3 (Shah et al. 2024).
//
// One block per multiprocessor computes tiles of 128 queries of one head, one after another (Schedule). For
// each it iterates over tiles of 128 keys from the last visible one down, so that the tiles that need masking
// come first. One producer warpgroup: a single thread loads Q by TMA into two buffers, and K and V into
// pipelines of stages; it runs ahead into the next tile of queries. Two consumer warpgroups of 64 queries
// each: S = Q K^T (wgmma m64n128k16, both operands from shared memory), online softmax in base 2, O += P V
// with P from registers and V as an MN-major operand. S of a tile is issued together with O += P V of the
// previous one, which remains in flight up to the maxima of S. Between tiles of queries the first S of the
// next is computed while O is written. The warpgroups wait for each other only through the stages, so one
// fills the gaps of the other.
//
// Tiles start at the example's first key, so only limits, ends and key masks need masking.
//
// Heads of up to D = 32, 64, 96, 128 or 256 channels: TMA fills narrower ones up with zeros, to tiles of 64
// columns, of which the products use D. Shared memory: two buffers of Q and one of O of 128 rows, and
// kStages * 256 rows of K and V: 176 KiB with one tile (4 stages), 224 KiB with two (2 stages). Registers of
// a consumer thread: S 64, P 32, O D / 2, of 240.
//
// D = 256 takes tiles of 64 keys: S 32, P 16, O 128 registers; 192 KiB for one buffer of Q, which is loaded
// anew once a tile's last scores are complete, and two stages of K and V. O leaves through registers.
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention/hopper_launch.cuh"
#include "kernels/cuda/attention/store_codes.cuh"
#include "kernels/cuda/hopper/primitives.cuh"
#include "kernels/cuda/hopper/query_rows.cuh"
#include "kernels/cuda/hopper/schedule.cuh"
#include "kernels/cuda/hopper/uniform_products.cuh"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kQueries = 128;
constexpr float kLn2 = 0.693147180559945f;

struct ForwardArguments {
  CUtensorMap q, k, v;
  Attention a;
  float scale_log2;      // of the softmax, times log2(e)
  int section_heads;     // Schedule
  Fp8Quantize quantize;  // with kCodes
};

/// What the producer tells the consumers of a tile of queries.
struct Work {
  QueryTile tile;
  int key_tiles;   // at least 1, which is hidden where the queries see nothing; 0: there are no more tiles
  bool narrow[2];  // the 64 queries of this warpgroup see at most the first half of the last key tile
};

template <int kD>
struct Shape {
  static constexpr int D = kD, kTiles = (D + kTileColumns - 1) / kTileColumns;
  static constexpr bool kWide = D > 128;
  static constexpr int kKeys = kWide ? 64 : 128, kQBuffers = kWide ? 1 : 2;
  static constexpr int kStages = kTiles == 1 ? 4 : 2;
  // Of 64 columns.
  static constexpr uint32_t kTileBytes = kQueries * kRowBytes, kKeyTileBytes = kKeys * kRowBytes;
  static constexpr uint32_t kBytes = kTiles * kTileBytes;        // of a buffer of Q or O
  static constexpr uint32_t kKeyBytes = kTiles * kKeyTileBytes;  // of a stage of K or V
  static constexpr uint32_t kQ = 0, kK = kQBuffers * kBytes, kV = kK + kStages * kKeyBytes,
                            kOut = kV + kStages * kKeyBytes, kBarriers = kOut + (kWide ? 0 : kBytes);
  // mbarriers: full and empty of each buffer of Q, then of each stage of K, then of V.
  static constexpr uint32_t kWork = kBarriers + 8 * (4 + 4 * kStages);
  static constexpr uint32_t kSharedBytes = kWork + 2 * sizeof(Work);
};

/// kCodes: leaves O in 8 bits, too.
template <typename S, bool kCodes>
class ForwardBlock {
  static constexpr int D = S::D, kKeys = S::kKeys, kStages = S::kStages, kQBuffers = S::kQBuffers;
  using Ring = PipelineState<kStages>;
  using QueryBuffers = PipelineState<kQBuffers>;
  using Rows = QueryRows<kKeys>;

 public:
  __device__ ForwardBlock(const ForwardArguments& arguments, unsigned char* memory)
      : args_(arguments),
        a_(arguments.a),
        memory_(memory),
        shared_(shared_address(memory)),
        group_(uniform(consumer_warp() / 4)) {}

  __device__ void run() {
    if (threadIdx.x == 0) init_barriers();
    __syncthreads();
    start_after_earlier_kernels();
    if (threadIdx.x < kWarpgroup) {
      warpgroup_reg_dealloc<kProducerRegisters>();
      if (threadIdx.x == 0) produce();
    } else {
      warpgroup_reg_alloc<kConsumerRegisters>();
      consume();
    }
  }

 private:
  __device__ uint32_t barrier(int index) const { return shared_ + S::kBarriers + 8 * index; }
  __device__ uint32_t q_full(int buffer) const { return barrier(buffer); }
  __device__ uint32_t q_empty(int buffer) const { return barrier(2 + buffer); }
  __device__ uint32_t k_full(int stage) const { return barrier(4 + stage); }
  __device__ uint32_t k_empty(int stage) const { return barrier(4 + kStages + stage); }
  __device__ uint32_t v_full(int stage) const { return barrier(4 + 2 * kStages + stage); }
  __device__ uint32_t v_empty(int stage) const { return barrier(4 + 3 * kStages + stage); }

  __device__ uint32_t q_buffer(int buffer) const { return shared_ + S::kQ + buffer * S::kBytes; }
  __device__ uint32_t k_stage(int stage) const { return shared_ + S::kK + stage * S::kKeyBytes; }
  __device__ uint32_t v_stage(int stage) const { return shared_ + S::kV + stage * S::kKeyBytes; }
  __device__ Work& work(int parity) const { return reinterpret_cast<Work*>(memory_ + S::kWork)[parity]; }
  /// Of the number of the tile of queries.
  __device__ static int parity(const QueryBuffers& buffers) {
    return kQBuffers == 2 ? buffers.stage : static_cast<int>(buffers.phase);
  }

  __device__ void init_barriers() const {
    for (int buffer = 0; buffer < 2; ++buffer) {
      mbarrier_init(q_full(buffer), 1);
      mbarrier_init(q_empty(buffer), kConsumerArrivals);
    }
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(k_full(stage), 1);
      mbarrier_init(k_empty(stage), kConsumerArrivals);
      mbarrier_init(v_full(stage), 1);
      mbarrier_init(v_empty(stage), kConsumerArrivals);
    }
    fence_mbarrier_init();
  }

  // --- Producer thread.

  __device__ void produce() const {
    QueryBuffers buffers;
    Ring ring;
    for (Schedule schedule(a_, args_.section_heads); schedule.advance(); buffers.advance()) {
      const QueryTile tile = schedule.tile();
      const int seen = tile.key_tiles<kKeys>(), key_tiles = max(seen, 1);
      // Where no key is seen, rows beyond the last key, which TMA makes zeros.
      const int first_row = seen > 0 ? tile.first_key : static_cast<int>(a_.keys);
      const uint32_t full = q_full(buffers.stage);
      mbarrier_wait(q_empty(buffers.stage), buffers.phase ^ 1);
      start_load<S::kTileBytes>(q_buffer(buffers.stage), &args_.q, full, tile, tile.first_query);
      describe(tile, key_tiles, work(parity(buffers)));
      mbarrier_arrive(full);
      for (int t = key_tiles - 1; t >= 0; --t, ring.advance()) {
        const int row = first_row + t * kKeys;
        mbarrier_wait(k_empty(ring.stage), ring.phase ^ 1);
        start_load<S::kKeyTileBytes>(k_stage(ring.stage), &args_.k, k_full(ring.stage), tile, row);
        mbarrier_arrive(k_full(ring.stage));
        mbarrier_wait(v_empty(ring.stage), ring.phase ^ 1);
        start_load<S::kKeyTileBytes>(v_stage(ring.stage), &args_.v, v_full(ring.stage), tile, row);
        mbarrier_arrive(v_full(ring.stage));
      }
    }
    mbarrier_wait(q_empty(buffers.stage), buffers.phase ^ 1);
    work(parity(buffers)).key_tiles = 0;
    mbarrier_arrive(q_full(buffers.stage));
  }

  template <uint32_t kTileBytes>
  __device__ void start_load(uint32_t target, const CUtensorMap* map, uint32_t full, const QueryTile& tile,
                             int row) const {
    mbarrier_expect_tx(full, S::kTiles * kTileBytes);
    tma_load_tiles<S::kTiles>(target, kTileBytes, map, full, tile.head, row, tile.example);
  }

  __device__ void describe(const QueryTile& tile, int key_tiles, Work& work) const {
    work.tile = tile;
    work.key_tiles = key_tiles;
    const int32_t* limits = tile.limits(a_);
    const int half = tile.first_key + (key_tiles - 1) * kKeys + kKeys / 2;
    for (int group = 0; group < 2; ++group) {
      const int last = min(tile.query_count, group * 64 + 64) - 1;
      work.narrow[group] = min(limits[last], tile.key_end) <= half;
    }
  }

  // --- Consumer warpgroups.

  __device__ void consume() {
    QueryBuffers buffers;
    float s[kKeys / 2];
    uint32_t p[kKeys / 4] = {};
    bool first = true;
    clear();
    if constexpr (kCodes) begin_codes(codes(), args_.quantize);
    for (; wait_for_work(buffers); buffers.advance(), first = false) {
      // The last product of the previous tile, and zeros before the first: the compiler serialises all wgmma
      // where one is issued conditionally.
      issue_values(p);
      issue_scores(s, buffers.stage);
      const Rows rows(a_, work(parity(buffers)).tile, consumer_warp());
      wgmma_wait<1>();
      if (!first) {
        release_values();
        epilogue(parity(buffers) ^ 1);
      }
      wgmma_wait<0>();
      compute_tile(rows, buffers, s, p);
    }
    if (first) return;
    issue_values(p);
    wgmma_wait<0>();
    release_values();
    epilogue(parity(buffers) ^ 1);
    if constexpr (kCodes) end_codes(codes(), args_.quantize);
  }

  /// With kCodes, behind the layout.
  __device__ GroupCodes& codes() const {
    return reinterpret_cast<CodesMemory*>(memory_ + codes_place(S::kSharedBytes))->own();
  }

  /// Whether there is another tile of queries.
  __device__ bool wait_for_work(const QueryBuffers& buffers) const {
    mbarrier_wait(q_full(buffers.stage), buffers.phase);
    return uniform(work(parity(buffers)).key_tiles) > 0;
  }

  /// From the first scores, which are complete, up to all but the last product with V.
  __device__ void compute_tile(const Rows& rows, const QueryBuffers& buffers, float (&s)[kKeys / 2],
                               uint32_t (&p)[kKeys / 4]) {
    const Work& of_tile = work(parity(buffers));
    int t = static_cast<int>(uniform(of_tile.key_tiles)) - 1;
    release_scores(s, buffers, t == 0);
    clear();
    if (uniform(of_tile.narrow[group_])) {
      hide<kKeys / 2>(rows, t, s);
      softmax<kKeys / 2, true>(s, p);
    } else {
      hide<kKeys>(rows, t, s);
      softmax<kKeys, true>(s, p);
    }
    while (--t >= 0) {
      issue_scores(s, buffers.stage);
      issue_values(p);
      wgmma_wait<1>();
      release_scores(s, buffers, t == 0);
      if (!rows.sees_all(t)) hide<kKeys>(rows, t, s);
      softmax<kKeys, false>(s, p);
    }
  }

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      largest_[r] = -INFINITY;
      sum_[r] = 0;
    }
    clear_accumulator(out_);
  }

  __device__ void issue_scores(float (&s)[kKeys / 2], int buffer) {
    mbarrier_wait(k_full(k_ring_.stage), k_ring_.phase);
    wgmma_fence();
    uniform_mm_abt<D>(s, q_buffer(buffer) + group_ * 64 * kRowBytes, S::kTileBytes, k_stage(k_ring_.stage),
                      S::kKeyTileBytes);
    wgmma_commit();
  }
  /// A single buffer of Q goes with the last scores of its tile; one of two when O has been written.
  __device__ void release_scores(float (&s)[kKeys / 2], const QueryBuffers& buffers, bool last) {
    wgmma_fence_operand(s);
    mbarrier_arrive_warp(k_empty(k_ring_.stage));
    k_ring_.advance();
    if (kQBuffers == 1 && last) mbarrier_arrive_warp(q_empty(buffers.stage));
  }

  __device__ void issue_values(uint32_t (&p)[kKeys / 4]) {
    mbarrier_wait(v_full(v_ring_.stage), v_ring_.phase);
    wgmma_fence_operand(out_);
    wgmma_fence_operand(p);
    wgmma_fence();
    uniform_mma_ab<kKeys / 16>(out_, p, v_stage(v_ring_.stage), S::kKeyTileBytes);
    wgmma_commit();
  }
  __device__ void release_values() {
    wgmma_fence_operand(out_);
    mbarrier_arrive_warp(v_empty(v_ring_.stage));
    v_ring_.advance();
  }

  /// Sets the scores of hidden keys among the first kColumns of a tile to -infinity.
  template <int kColumns>
  __device__ void hide(const Rows& rows, int t, float (&s)[kKeys / 2]) const {
    if (a_.key_mask == nullptr) return rows.template hide_beyond_limits<kColumns>(t, s);
    rows.hide(t, s);
  }

  /// Turns the scores of the first kColumns keys of a tile into exponentials relative to the row's running
  /// maximum; keys beyond count as hidden. After a warpgroup's first tile it waits for the product with V in
  /// flight, to rescale its result.
  template <int kColumns, bool kFirst>
  __device__ void softmax(const float (&s)[kKeys / 2], uint32_t (&p)[kKeys / 4]) {
    float largest[2] = {largest_[0], largest_[1]};
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        largest[r] = fmaxf(largest[r], fmaxf(s[n * 4 + r * 2], s[n * 4 + r * 2 + 1]));
#pragma unroll
    for (int mask = 1; mask <= 2; ++mask)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xFFFFFFFFu, largest[r], mask));
    float shift[2], correction[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // The maximum of a row without a visible key yet is -infinity; subtracting 0 keeps its scores masked.
      shift[r] = largest[r] == -INFINITY ? 0.0f : largest[r] * args_.scale_log2;
      correction[r] = exp2_fast(largest_[r] * args_.scale_log2 - shift[r]);
      largest_[r] = largest[r];
    }
    if (!kFirst) {
      wgmma_wait<0>();
      release_values();
    }
    float sum[2] = {};
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float x0 = exp2_fast(fmaf(s[n * 4 + r * 2], args_.scale_log2, -shift[r]));
        const float x1 = exp2_fast(fmaf(s[n * 4 + r * 2 + 1], args_.scale_log2, -shift[r]));
        sum[r] += x0;
        sum[r] += x1;
        p[n * 2 + r] = pack(x0, x1);
      }
#pragma unroll
    for (int i = kColumns / 4; i < kKeys / 4; ++i) p[i] = 0;
#pragma unroll
    for (int r = 0; r < 2; ++r) sum_[r] = sum_[r] * correction[r] + sum[r];
#pragma unroll
    for (int i = 0; i < D / 2; ++i) out_[i] *= correction[i % 4 / 2];
  }

  /// Of the tile of work(parity). Of two buffers of Q it releases that tile's.
  __device__ void epilogue(int parity) {
    const QueryTile tile = work(parity).tile;
    // A row that sees a key has a sum of 1 or more, since its largest score adds 1: the fast functions, which
    // do not branch, are as good as exact there.
    float inverse[2], lse[2];
#pragma unroll
    for (int mask = 1; mask <= 2; ++mask)
#pragma unroll
      for (int r = 0; r < 2; ++r) sum_[r] += __shfl_xor_sync(0xFFFFFFFFu, sum_[r], mask);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool blind = !(sum_[r] > 0);
      inverse[r] = blind ? 0.0f : __fdividef(1.0f, sum_[r]);
      lse[r] = blind ? INFINITY : (largest_[r] * args_.scale_log2 + __log2f(sum_[r])) * kLn2;
    }
    const int thread_row = consumer_warp() * 16 + lane() / 4;
    float* statistics = static_cast<float*>(a_.lse) + tile.statistic(a_, thread_row);
    if (lane() % 4 == 0) {
      if (thread_row < tile.query_count) statistics[0] = lse[0];
      if (thread_row + 8 < tile.query_count) statistics[8] = lse[1];
    }
    const int row = consumer_warp() * 16;
    const int width = static_cast<int>(a_.head_dim);
    __nv_bfloat16* target = static_cast<__nv_bfloat16*>(a_.out) +
                            (tile.example * a_.queries + tile.first_query + row) * a_.out_stride +
                            tile.head * width;
    if constexpr (kCodes) {
      const int begin = group_ * kCodeRows;
      store_codes<__NV_E4M3, true>(out_, inverse[0], inverse[1], memory_ + S::kOut, begin, codes(),
                                   1 + group_, args_.quantize,
                                   {.row = tile.example * a_.queries + tile.first_query + begin,
                                    .column = tile.head * width,
                                    .rows_left = tile.query_count - begin,
                                    .part = 0},
                                   nullptr, target - (row - begin) * a_.out_stride, a_.out_stride);
    } else if constexpr (S::kWide) {
      exchange_and_store_rows<D>(out_, inverse[0], inverse[1], target, a_.out_stride, tile.query_count - row,
                                 width);
    } else {
      store_rows<D>(out_, inverse[0], inverse[1], memory_ + S::kOut, S::kTileBytes, row, target,
                    a_.out_stride, tile.query_count - row, width);
    }
    if (kQBuffers == 2) mbarrier_arrive_warp(q_empty(parity));
  }

  const ForwardArguments& args_;
  const Attention& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  const int group_;       // of the consumers
  Ring k_ring_, v_ring_;  // of the consumers
  float largest_[2], sum_[2];
  float out_[D / 2];
};

template <typename S, bool kCodes>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_forward_kernel(const __grid_constant__ ForwardArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  ForwardBlock<S, kCodes>(a, memory).run();
#endif
}

template <typename S, bool kCodes = false>
void launch_forward(const Launch& launch, const Attention& k, const Fp8Quantize& quantize = {}) {
  ForwardArguments a{};
  a.quantize = quantize;
  a.q = query_rows_map(k, k.q, k.q_stride, kQueries);
  a.k = key_rows_map(k, k.k, S::kKeys);
  a.v = key_rows_map(k, k.v, S::kKeys);
  a.a = k;
  a.scale_log2 = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(k.head_dim)));
  const PersistentGrid grid(launch, k, k.queries, k.keys);
  a.section_heads = grid.section_heads;
  launch_attention<attention_hopper_forward_kernel<S, kCodes>>(
      launch, "attention_hopper_forward_kernel", grid.blocks, shared_bytes<kCodes>(S::kSharedBytes), a);
}

}  // namespace

void attention_hopper(const Launch& launch, const Attention& k) {
  with_head_width(k.head_dim, [&]<int D>() { launch_forward<Shape<D>>(launch, k); });
}

void attention_hopper_quantize(const Launch& launch, const Fp8Attention& k) {
  launch_forward<Shape<64>, true>(launch, k.attention, k.quantize);
}

}  // namespace perceiver::kernels::cuda
