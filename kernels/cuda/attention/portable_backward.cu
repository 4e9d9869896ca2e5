// Attention backward on the tensor cores of compute capability 8.0 and later, after FlashAttention-2
// (Dao 2023); bitwise repeatable.
//
// A block takes tiles of 128 keys, whose dK and dV stay in registers, and iterates over tiles of the 64
// queries that see them. Scores are held transposed, S^T = K Q^T and dP^T = V dO^T (keys by rows), so that
// P^T and dS^T are register operands of dV += P^T dO and dK += dS^T Q; only dS^T goes through shared memory,
// for dQ = dS K.
//
//  - Heads up to 64 wide: 4 warps of 32 keys each, which process a query tile in two halves; two blocks per
//  SM.
//    Registers per thread: dK and dV take 2 D, S^T and dP^T 32 each. Shared memory: 2 * 128 +
//    4 * 64 rows of D bf16 (K, V, two stages of Q and dO) and dS^T, 82 KiB at D = 64.
//  - Wider heads: 8 warps in pairs with 32 keys to a pair; the first of a pair computes S^T, P^T and dV, the
//    second dP^T, dS^T and dK, with P^T passed through shared memory. Registers per thread: D for the
//    gradient, 64 for S^T or dP^T. Shared memory: as above and 16 KiB for P^T, 162 KiB at D = 128.
//
// dQ: the key tiles of a head are dealt to `splits` blocks back and forth, which balances causal masks. Each
// split has its own f32 accumulator, to which only its block adds, in program order, so that the sums do not
// depend on timing; its elements are in the order of the register fragments. A split's first tile is seen by
// all queries that see any of its tiles, and stores instead of adding, so nothing has to be zeroed. A last
// kernel sums the splits in order.
#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/attention/mma.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kQueries = 64;
constexpr int kKeys = 128;
constexpr int kStages = 2;
constexpr float kLog2E = 1.4426950408889634f;

struct BackwardArguments {
  AttentionBackward a;
  float scale, scale_log2;
  int splits, query_tiles;
  float* d_q;          // [splits, batch, heads, query_tiles, kQueries * D] in the order of fragments
  float2* statistics;  // [batch, heads, query_tiles * kQueries]: LSE in base 2, rowsum(dO * O)
};

/// Head width D; pairs of warps share 32 keys or not.
template <int kD>
struct Shape {
  static constexpr int D = kD;
  static constexpr bool kPaired = D > 64;
  static constexpr int kThreads = kPaired ? 256 : 128;
  static constexpr int kBlocks = kPaired ? 1 : 2;  // per SM
  // How the warps divide dQ [64, D] among them, in tiles of 16 x 8.
  static constexpr int kWarpRows = D == 96 ? 4 : 2, kWarpColumns = kThreads / 32 / kWarpRows;
  static constexpr int kRowTiles = kQueries / kWarpRows / 16, kColumnTiles = D / kWarpColumns / 8;
  // Shared memory.
  static constexpr int kKeyTile = kKeys * D * 2, kQueryTile = kQueries * D * 2;
  static constexpr int kK = 0, kV = kK + kKeyTile, kQ = kV + kKeyTile, kDOut = kQ + kStages * kQueryTile,
                       kDs = kDOut + kStages * kQueryTile, kP = kDs + kKeys * kQueries * 2,
                       kStatistics = kP + (kPaired ? kKeys * kQueries * 2 : 0),
                       kLimits = kStatistics + kStages * kQueries * 8,
                       kSharedBytes = kLimits + kStages * kQueries * 4;
};

__device__ inline void add_in_order(float4* target, const float (&x)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(target), "f"(x[0]),
               "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
#else
  float* elements = reinterpret_cast<float*>(target);
#pragma unroll
  for (int e = 0; e < 4; ++e) atomicAdd(elements + e, x[e]);
#endif
}

template <int kCount>
__device__ inline void clear(float (&tiles)[2][kCount][4]) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < kCount; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) tiles[m][n][e] = 0;
}

/// The keys that an example's queries see, in tiles of kKeys from key 0.
struct KeyTiles {
  int begin, end;
  __device__ KeyTiles(const Attention& k, int64_t example) {
    begin = (k.first == nullptr ? 0 : max(k.first[example], 0)) / kKeys;
    const int last = min(k.limit[(example + 1) * k.queries - 1], static_cast<int>(k.keys));
    end = max((last + kKeys - 1) / kKeys, 0);
  }
};

/// The last limit of a tile of queries.
__device__ inline int last_limit(const Attention& k, int64_t example, int query_tile) {
  const int64_t last = min(static_cast<int64_t>(query_tile + 1) * kQueries, k.queries) - 1;
  return min(k.limit[example * k.queries + last], static_cast<int>(k.keys));
}

template <typename S>
class BackwardBlock {
  static constexpr int D = S::D, kThreads = S::kThreads, kColumns = D / 8;
  static constexpr bool kPaired = S::kPaired;

 public:
  __device__ BackwardBlock(const BackwardArguments& arguments, unsigned char* memory)
      : a_(arguments),
        memory_(memory),
        shared_(shared_address(memory)),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        head_(blockIdx.y),
        example_(blockIdx.z) {}

  __device__ void run() {
    const Attention& k = a_.a.forward;
    const KeyTiles seen(k, example_);
    const int split = static_cast<int>(blockIdx.x), all = static_cast<int>((k.keys + kKeys - 1) / kKeys);
    for (int t = split; t < all; t += a_.splits)
      if (t < seen.begin || t >= seen.end) clear_tile(t);
    int query_tile = 0;
    for (int round = 0;; ++round) {
      const int t = seen.begin + round * a_.splits + (round % 2 == 0 ? split : a_.splits - 1 - split);
      if (seen.begin + round * a_.splits >= seen.end) break;
      if (t >= seen.end) continue;
      query_tile = first_query_tile(t, query_tile);
      key_tile(t, query_tile, round == 0);
    }
  }

 private:
  __device__ int key_warp() const { return warp_ % 4; }
  /// Whether this warp is the one of a pair that computes P^T and dV.
  __device__ bool leads() const { return warp_ < 4; }

  /// The first query tile, from `from` on, that sees keys of tile t.
  __device__ int first_query_tile(int t, int from) const {
    for (;; from += 32) {
      const int tile = from + lane_;
      const bool sees = tile >= a_.query_tiles || last_limit(a_.a.forward, example_, tile) > t * kKeys;
      const uint32_t found = __ballot_sync(0xFFFFFFFFu, sees);
      if (found != 0) return from + __ffs(static_cast<int>(found)) - 1;
    }
  }

  __device__ int64_t key_offset(int t) const {
    const Attention& k = a_.a.forward;
    return (example_ * k.keys + static_cast<int64_t>(t) * kKeys) * k.kv_stride + head_ * k.head_dim;
  }
  __device__ int chunks() const { return static_cast<int>(a_.a.forward.head_dim) / 8; }

  __device__ void clear_tile(int t) const {
    const Attention& k = a_.a.forward;
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * chunks(); i += kThreads) {
      const int row = i / chunks(), chunk = i % chunks();
      if (static_cast<int64_t>(t) * kKeys + row >= k.keys) break;
      const int64_t offset = key_offset(t) + row * k.kv_stride + chunk * 8;
      *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(a_.a.d_k) + offset) = uint4{0, 0, 0, 0};
      *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(a_.a.d_v) + offset) = uint4{0, 0, 0, 0};
    }
  }

  __device__ void copy_queries(int tile, int stage) const {
    const Attention& k = a_.a.forward;
    const int64_t query = static_cast<int64_t>(tile) * kQueries, row = example_ * k.queries + query;
    const int left = static_cast<int>(k.queries - query), thread = static_cast<int>(threadIdx.x);
    copy_tile<kQueries, D, kThreads>(
        shared_ + S::kQ + stage * S::kQueryTile,
        static_cast<const __nv_bfloat16*>(k.q) + row * k.q_stride + head_ * k.head_dim, k.q_stride, left,
        chunks());
    copy_tile<kQueries, D, kThreads>(
        shared_ + S::kDOut + stage * S::kQueryTile,
        static_cast<const __nv_bfloat16*>(a_.a.d_out) + row * k.out_stride + head_ * k.head_dim, k.out_stride,
        left, chunks());
    if (thread < kQueries) {
      copy_async_small<4>(shared_ + S::kLimits + (stage * kQueries + thread) * 4, k.limit + row + thread,
                          thread < left);
    } else if (thread < kQueries + 32) {
      const int pair = thread - kQueries;
      copy_async(shared_ + S::kStatistics + stage * kQueries * 8 + pair * 16,
                 a_.statistics + ((example_ * k.heads + head_) * a_.query_tiles + tile) * kQueries + pair * 2,
                 true);
    }
  }

  __device__ void key_tile(int t, int query_tile, bool store_d_q) {
    const Attention& k = a_.a.forward;
    const int keys_left = static_cast<int>(k.keys - static_cast<int64_t>(t) * kKeys);
    __syncthreads();  // All warps are done with the previous tile.
    copy_tile<kKeys, D, kThreads>(shared_ + S::kK, static_cast<const __nv_bfloat16*>(k.k) + key_offset(t),
                                  k.kv_stride, keys_left, chunks());
    copy_tile<kKeys, D, kThreads>(shared_ + S::kV, static_cast<const __nv_bfloat16*>(k.v) + key_offset(t),
                                  k.kv_stride, keys_left, chunks());
    copy_queries(query_tile, 0);
    copy_commit();

    warp_key_ = t * kKeys + key_warp() * 32;
    const int key = warp_key_ + lane_, first = k.first == nullptr ? 0 : k.first[example_];
    const bool exists = key >= first && key < k.keys;
    exist_ = __ballot_sync(0xFFFFFFFFu, exists);
    seen_ = __ballot_sync(0xFFFFFFFFu,
                          exists && (k.key_mask == nullptr || k.key_mask[example_ * k.keys + key] != 0));

    clear(sum_);
    if constexpr (!kPaired) clear(sum_v_);
    int stage = 0;
    for (int tile = query_tile; tile < a_.query_tiles; ++tile, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();  // This stage has arrived; all warps are done with the other one and dS^T.
      if (tile + 1 < a_.query_tiles) {
        copy_queries(tile + 1, stage ^ 1);
        copy_commit();
      }
      if constexpr (kPaired) {
        paired_step(tile, stage);
      } else {
        half_step<0>(tile, stage);
        half_step<1>(tile, stage);
      }
      __syncthreads();  // dS^T is complete.
      query_gradient(tile, store_d_q);
    }
    __syncthreads();  // All warps are done with K and V.
    if constexpr (kPaired) {
      if (leads()) {
        store_rows(sum_, 1.0f, S::kV, static_cast<__nv_bfloat16*>(a_.a.d_v) + key_offset(t), keys_left);
      } else {
        store_rows(sum_, a_.scale, S::kK, static_cast<__nv_bfloat16*>(a_.a.d_k) + key_offset(t), keys_left);
      }
    } else {
      store_rows(sum_v_, 1.0f, S::kV, static_cast<__nv_bfloat16*>(a_.a.d_v) + key_offset(t), keys_left);
      store_rows(sum_, a_.scale, S::kK, static_cast<__nv_bfloat16*>(a_.a.d_k) + key_offset(t), keys_left);
    }
  }

  /// s [32 keys of this warp, 8 * kCount queries] = rows of `keys` times rows of `queries` from `row`.
  template <int kCount>
  __device__ void product(uint32_t keys, uint32_t queries, int row, float (&s)[2][kCount][4]) const {
    clear(s);
    const LaneAddress<D, Cover::rows> a_address(keys + key_warp() * 32 * D * 2);
    const LaneAddress<D, Cover::columns> b_address(queries);
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t a[2][4];
      load_matrices(a[0], a_address.at(0, step));
      load_matrices(a[1], a_address.at(16, step));
#pragma unroll
      for (int n = 0; n < kCount; n += 2) {
        uint32_t b[4];
        load_matrices(b, b_address.at(row + n * 8, step));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply_add(s[m][n], a[m], b[0], b[1]);
          multiply_add(s[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  /// sum [32 keys of this warp, D] += a [32 keys, 8 * kCount queries] · rows of `queries` from `row`.
  template <int kCount>
  __device__ void accumulate(const uint32_t (&a)[2][kCount / 2][4], uint32_t queries, int row,
                             float (&sum)[2][kColumns][4]) const {
    const LaneAddress<D, Cover::rows> address(queries);
#pragma unroll
    for (int step = 0; step < kCount / 2; ++step)
#pragma unroll
      for (int n = 0; n < kColumns; n += 2) {
        uint32_t b[4];
        load_matrices_transposed(b, address.at(row + step * 16, n / 2));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply_add(sum[m][n], a[m][step], b[0], b[1]);
          multiply_add(sum[m][n + 1], a[m][step], b[2], b[3]);
        }
      }
  }

  template <int kCount>
  __device__ static uint4 packed_fragment(const float (&s)[2][kCount][4], int m, int step) {
    const float(&x)[4] = s[m][2 * step], (&y)[4] = s[m][2 * step + 1];
    return {pack(x[0], x[1]), pack(x[2], x[3]), pack(y[0], y[1]), pack(y[2], y[3])};
  }

  template <int kCount>
  __device__ static void pack_tiles(const float (&s)[2][kCount][4], uint32_t (&packed)[2][kCount / 2][4]) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int step = 0; step < kCount / 2; ++step) {
        const uint4 four = packed_fragment(s, m, step);
        packed[m][step][0] = four.x;
        packed[m][step][1] = four.y;
        packed[m][step][2] = four.z;
        packed[m][step][3] = four.w;
      }
  }

  /// Sets the scores of hidden keys to -infinity. The scores' queries start at `row` of the tile.
  template <int kCount>
  __device__ void hide(int tile, int stage, int row, float (&s)[2][kCount][4]) const {
    const int* limits = reinterpret_cast<const int*>(memory_ + S::kLimits) + stage * kQueries + row;
    // Uniform over the warp: limits rise with the queries.
    if (seen_ == 0xFFFFFFFFu && warp_key_ + 32 <= limits[0]) return;
    const int thread_key = warp_key_ + lane_ / 4;
    const uint32_t seen = seen_ >> (lane_ / 4), exist = exist_ >> (lane_ / 4);
#pragma unroll
    for (int n = 0; n < kCount; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = n * 8 + lane_ % 4 * 2 + e;
        const int limit = limits[column] - thread_key;
        const int own = a_.a.forward.self_visible ? tile * kQueries + row + column - thread_key : -1;
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const bool bit = (seen & (1u << (r * 8))) || (own == r * 8 && (exist & (1u << (r * 8))));
          if (r * 8 >= limit || !bit) s[r / 2][n][r % 2 * 2 + e] = -INFINITY;
        }
      }
  }

  /// LSE and delta of queries 2 * (lane % 4) and the next of tile n.
  __device__ float4 statistics(int stage, int row, int n) const {
    return *reinterpret_cast<const float4*>(memory_ + S::kStatistics +
                                            (stage * kQueries + row + n * 8 + lane_ % 4 * 2) * 8);
  }

  template <int kCount>
  __device__ void store_ds(const uint32_t (&ds)[2][kCount / 2][4], int row) const {
    using Tile = SharedTile<kQueries>;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int step = 0; step < kCount / 2; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = key_warp() * 32 + m * 16 + i % 2 * 8 + lane_ / 4,
                    chunk = row / 8 + step * 2 + i / 2;
          *reinterpret_cast<uint32_t*>(memory_ + S::kDs + Tile::offset(key, chunk) + lane_ % 4 * 4) =
              ds[m][step][i];
        }
  }

  /// 32 queries, by a warp that computes everything for its keys.
  template <int kHalf>
  __device__ void half_step(int tile, int stage) {
    constexpr int kRow = kHalf * 32;
    const uint32_t q = shared_ + S::kQ + stage * S::kQueryTile,
                   d_out = shared_ + S::kDOut + stage * S::kQueryTile;
    float s[2][4][4], dp[2][4][4];
    product<4>(shared_ + S::kK, q, kRow, s);
    product<4>(shared_ + S::kV, d_out, kRow, dp);
    hide<4>(tile, stage, kRow, s);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float4 x = statistics(stage, kRow, n);
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          s[m][n][e] = exp2_fast(fmaf(s[m][n][e], a_.scale_log2, e % 2 == 0 ? -x.x : -x.z));
          dp[m][n][e] = s[m][n][e] * (dp[m][n][e] - (e % 2 == 0 ? x.y : x.w));
        }
    }
    uint32_t packed[2][2][4];
    pack_tiles<4>(s, packed);
    accumulate<4>(packed, d_out, kRow, sum_v_);
    pack_tiles<4>(dp, packed);
    store_ds<4>(packed, kRow);
    accumulate<4>(packed, q, kRow, sum_);
  }

  /// For the two warps that share keys.
  __device__ void pair_barrier() const {
    asm volatile("bar.sync %0, 64;" ::"r"(1 + key_warp()) : "memory");
  }

  /// 64 queries, by a pair of warps. Both run the same products, the first on [K, Q, dO], the second on [V,
  /// dO, Q].
  __device__ void paired_step(int tile, int stage) {
    const uint32_t q = shared_ + S::kQ + stage * S::kQueryTile,
                   d_out = shared_ + S::kDOut + stage * S::kQueryTile;
    float s[2][8][4];
    product<8>(shared_ + (leads() ? S::kK : S::kV), leads() ? q : d_out, 0, s);
    uint4* exchange = reinterpret_cast<uint4*>(memory_ + S::kP) + key_warp() * 32 + lane_;
    if (leads()) {
      hide<8>(tile, stage, 0, s);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float4 x = statistics(stage, 0, n);
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            s[m][n][e] = exp2_fast(fmaf(s[m][n][e], a_.scale_log2, e % 2 == 0 ? -x.x : -x.z));
      }
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int step = 0; step < 4; ++step) exchange[(m * 4 + step) * 128] = packed_fragment(s, m, step);
    }
    // Outside the branches, so that both warps of the pair wait at the same instruction.
    pair_barrier();
    uint32_t packed[2][4][4];
    if (leads()) {
      pack_tiles<8>(s, packed);
    } else {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const float4 x[2] = {statistics(stage, 0, 2 * step), statistics(stage, 0, 2 * step + 1)};
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint4 four = exchange[(m * 4 + step) * 128];
          const uint32_t p[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 pair = unpack(p[i]);
            const float* dp = &s[m][2 * step + i / 2][i % 2 * 2];
            packed[m][step][i] = pack(pair.x * (dp[0] - x[i / 2].y), pair.y * (dp[1] - x[i / 2].w));
          }
        }
      }
      store_ds<8>(packed, 0);
    }
    accumulate<8>(packed, leads() ? d_out : q, 0, sum_);
  }

  /// This split's dQ of a tile of queries (+)= dS K.
  __device__ void query_gradient(int tile, bool store) const {
    constexpr int kRowTiles = S::kRowTiles, kColumnTiles = S::kColumnTiles;
    const int warp_row = warp_ / S::kWarpColumns, warp_column = warp_ % S::kWarpColumns;
    float sum[kRowTiles][kColumnTiles][4] = {};
    const LaneAddress<kQueries, Cover::columns> ds(shared_ + S::kDs);
    const LaneAddress<D, Cover::rows> keys(shared_ + S::kK);
    // The column steps depend on the warp, so they go through the swizzle here.
    uint32_t ds_address[kRowTiles], key_address[kColumnTiles / 2];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) ds_address[m] = ds.dynamic(warp_row * kRowTiles + m);
#pragma unroll
    for (int n = 0; n < kColumnTiles / 2; ++n)
      key_address[n] = keys.dynamic(warp_column * (kColumnTiles / 2) + n);
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m)
        load_matrices_transposed(a[m], ds_address[m] + step * 16 * kQueries * 2);
#pragma unroll
      for (int n = 0; n < kColumnTiles; n += 2) {
        uint32_t b[4];
        load_matrices_transposed(b, key_address[n / 2] + step * 16 * D * 2);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          multiply_add(sum[m][n], a[m], b[0], b[1]);
          multiply_add(sum[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
    const Attention& k = a_.a.forward;
    const int64_t split = blockIdx.x;
    float4* target = reinterpret_cast<float4*>(
                         a_.d_q + (((split * k.batch + example_) * k.heads + head_) * a_.query_tiles + tile) *
                                      (kQueries * D)) +
                     threadIdx.x;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const float(&x)[4] = sum[m][n];
        float4* fragment = target + (m * kColumnTiles + n) * kThreads;
        if (store) {
          *fragment = float4{x[0], x[1], x[2], x[3]};
        } else {
          add_in_order(fragment, x);
        }
      }
  }

  /// Staged through shared memory for 16-byte stores; each warp uses the rows of its own keys.
  __device__ void store_rows(const float (&sum)[2][kColumns][4], float factor, int tile,
                             __nv_bfloat16* target, int rows) const {
    using Tile = SharedTile<D>;
    const int64_t stride = a_.a.forward.kv_stride;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          *reinterpret_cast<uint32_t*>(
              memory_ + tile + Tile::offset(key_warp() * 32 + m * 16 + r * 8 + lane_ / 4, n) +
              lane_ % 4 * 4) = pack(sum[m][n][r * 2] * factor, sum[m][n][r * 2 + 1] * factor);
    __syncwarp();
#pragma unroll
    for (int pass = 0; pass < Tile::kChunks; ++pass) {
      const int i = pass * 32 + lane_;
      const int row = key_warp() * 32 + i / Tile::kChunks, chunk = i % Tile::kChunks;
      if (row < rows && chunk < chunks())
        *reinterpret_cast<uint4*>(target + row * stride + chunk * 8) =
            *reinterpret_cast<const uint4*>(memory_ + tile + Tile::offset(row, chunk));
    }
  }

  const BackwardArguments& a_;
  unsigned char* memory_;
  const uint32_t shared_;
  const int warp_, lane_;
  const int64_t head_, example_;
  int warp_key_;                               // the first of this warp's 32 keys
  uint32_t exist_, seen_;                      // one bit per key: in the example's range; and not masked
  float sum_[2][kColumns][4];                  // dK; in pairs the first warp's is dV
  float sum_v_[2][kPaired ? 1 : kColumns][4];  // dV where one warp computes both
};

template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    attention_backward_kernel(const __grid_constant__ BackwardArguments a) {
  extern __shared__ __align__(1024) unsigned char memory[];
  BackwardBlock<S>(a, memory).run();
}

/// LSE and delta of each query, `lanes` lanes to a row; padding rows see nothing.
__global__ void __launch_bounds__(256)
    attention_statistics_kernel(const __grid_constant__ BackwardArguments a, int lanes) {
  const Attention& k = a.a.forward;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) / lanes;
  const int chunk = static_cast<int>(threadIdx.x) % lanes;
  const int64_t padded = static_cast<int64_t>(a.query_tiles) * kQueries;
  const int64_t query = row % padded, head = row / padded % k.heads, example = row / padded / k.heads;
  float sum = 0;
  const bool exists = example < k.batch && query < k.queries;
  if (exists && chunk * 8 < k.head_dim) {
    const int64_t offset = (example * k.queries + query) * k.out_stride + head * k.head_dim + chunk * 8;
    const uint4 x = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(k.out) + offset);
    const uint4 y = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.a.d_out) + offset);
    const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 u = unpack(xs[i]), v = unpack(ys[i]);
      sum += u.x * v.x + u.y * v.y;
    }
  }
  for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
  if (chunk != 0 || example >= k.batch) return;
  const int64_t statistic = (example * k.heads + head) * k.queries + query;
  const float lse = exists ? static_cast<const float*>(k.lse)[statistic] * kLog2E : INFINITY;
  a.statistics[row] = float2{lse, sum};
}

/// d_q = scale * the sum over the splits that a tile of queries sees; threads and fragments as in the kernel
/// above.
template <typename S>
__global__ void __launch_bounds__(S::kThreads)
    attention_query_gradient_kernel(const __grid_constant__ BackwardArguments a) {
  const Attention& k = a.a.forward;
  const int tile = static_cast<int>(blockIdx.x);
  const int64_t head = blockIdx.y, example = blockIdx.z;
  const KeyTiles seen(k, example);
  const int keys = last_limit(k, example, tile) - seen.begin * kKeys;
  const int splits = min(a.splits, max(keys + kKeys - 1, 0) / kKeys);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row0 = tile * kQueries + warp / S::kWarpColumns * (S::kRowTiles * 16) + lane / 4;
  const int column0 = warp % S::kWarpColumns * (S::kColumnTiles * 8) + lane % 4 * 2;
  const int64_t split_size = k.batch * k.heads * a.query_tiles * (kQueries * S::D / 4);
  const float4* source = reinterpret_cast<const float4*>(a.d_q) +
                         ((example * k.heads + head) * a.query_tiles + tile) * (kQueries * S::D / 4) +
                         threadIdx.x;
  __nv_bfloat16* target =
      static_cast<__nv_bfloat16*>(a.a.d_q) + example * k.queries * k.q_stride + head * k.head_dim;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int n = 0; n < S::kColumnTiles; ++n) {
      float4 sum{0, 0, 0, 0};
      for (int s = 0; s < splits; ++s) {
        const float4 x = source[s * split_size + (m * S::kColumnTiles + n) * S::kThreads];
        sum.x += x.x;
        sum.y += x.y;
        sum.z += x.z;
        sum.w += x.w;
      }
      const int row = row0 + m * 16, column = column0 + n * 8;
      if (column >= k.head_dim) continue;
      if (row < k.queries)
        *reinterpret_cast<uint32_t*>(target + row * k.q_stride + column) =
            pack(sum.x * a.scale, sum.y * a.scale);
      if (row + 8 < k.queries)
        *reinterpret_cast<uint32_t*>(target + (row + 8) * k.q_stride + column) =
            pack(sum.z * a.scale, sum.w * a.scale);
    }
}

/// Calls body.template operator()<Shape<D>>() with the head width padded.
template <typename Body>
auto with_shape(int64_t head_dim, Body&& body) {
  if (head_dim <= 32) return body.template operator()<Shape<32>>();
  if (head_dim <= 64) return body.template operator()<Shape<64>>();
  if (head_dim <= 96) return body.template operator()<Shape<96>>();
  return body.template operator()<Shape<128>>();
}

int64_t padded_queries(const Attention& k) {
  return ceil_div(k.queries, kQueries) * kQueries;
}

template <typename S>
int64_t split_bytes(const Attention& k) {
  return k.batch * k.heads * padded_queries(k) * S::D * static_cast<int64_t>(sizeof(float));
}

int64_t statistics_bytes(const Attention& k) {
  return k.batch * k.heads * padded_queries(k) * static_cast<int64_t>(sizeof(float2));
}

/// The number of splits with the shortest estimated time, counted in waves of blocks and rounds of tiles: up
/// to four, more where the workspace holds them.
template <typename S>
int choose_splits(const Attention& k, int sm_count, int64_t most) {
  const int64_t key_tiles = std::max<int64_t>(1, ceil_div(k.keys, kKeys)), heads = k.batch * k.heads;
  int best = 1;
  double best_time = 1e300;
  for (int s = 1; s <= std::min(most, key_tiles); ++s) {
    const double time =
        static_cast<double>(ceil_div(heads * s, int64_t{S::kBlocks} * sm_count) * ceil_div(key_tiles, s)) *
        (1 + 0.01 * (s - 1));
    if (time >= best_time) continue;
    best = s;
    best_time = time;
  }
  return best;
}

template <typename S>
int choose_splits(const Attention& k, int sm_count) {
  const int64_t fit = (kSmallestWorkspace - statistics_bytes(k)) / std::max<int64_t>(1, split_bytes<S>(k));
  return choose_splits<S>(k, sm_count, std::max<int64_t>(4, fit));
}

template <typename S>
void launch_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch) {
  const Attention& k = a.forward;
  int splits = choose_splits<S>(k, launch.sm_count);
  const int64_t fit = (scratch.bytes - statistics_bytes(k)) / std::max<int64_t>(1, split_bytes<S>(k));
  require(fit > 0, "scratch memory for attention's backward");
  if (splits > fit) splits = choose_splits<S>(k, launch.sm_count, fit);
  const double scale = 1 / std::sqrt(static_cast<double>(k.head_dim));
  BackwardArguments arguments{};
  arguments.a = a;
  arguments.scale = static_cast<float>(scale);
  arguments.scale_log2 = static_cast<float>(scale * 1.4426950408889634);
  arguments.splits = splits;
  arguments.query_tiles = static_cast<int>(ceil_div(k.queries, kQueries));
  arguments.d_q = static_cast<float*>(scratch.data);
  arguments.statistics =
      reinterpret_cast<float2*>(static_cast<unsigned char*>(scratch.data) + splits * split_bytes<S>(k));
  const cudaStream_t stream = stream_of(launch);
  const auto heads = static_cast<unsigned>(k.heads), batch = static_cast<unsigned>(k.batch);

  const int lanes = S::D <= 64 ? 8 : 16;
  attention_statistics_kernel<<<
      static_cast<unsigned>(ceil_div(k.batch * k.heads * padded_queries(k) * lanes, 256)), 256, 0, stream>>>(
      arguments, lanes);
  check_launch("attention_statistics_kernel");
  check(cudaFuncSetAttribute(attention_backward_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             S::kSharedBytes),
        "attention_backward_kernel");
  attention_backward_kernel<S>
      <<<dim3(static_cast<unsigned>(splits), heads, batch), S::kThreads, S::kSharedBytes, stream>>>(
          arguments);
  check_launch("attention_backward_kernel");
  attention_query_gradient_kernel<S>
      <<<dim3(static_cast<unsigned>(arguments.query_tiles), heads, batch), S::kThreads, 0, stream>>>(
          arguments);
  check_launch("attention_query_gradient_kernel");
}

}  // namespace

int attention_portable_backward_shared_bytes(const AttentionBackward& a) {
  return with_shape(a.forward.head_dim, [&]<typename S>() { return S::kSharedBytes; });
}

int64_t attention_portable_backward_bytes(const AttentionBackward& a, int sm_count) {
  const Attention& k = a.forward;
  return with_shape(k.head_dim, [&]<typename S>() {
    return choose_splits<S>(k, sm_count) * split_bytes<S>(k) + statistics_bytes(k);
  });
}

void attention_portable_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch) {
  with_shape(a.forward.head_dim, [&]<typename S>() { launch_backward<S>(launch, a, scratch); });
}

}  // namespace perceiver::kernels::cuda
