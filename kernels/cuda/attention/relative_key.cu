// Gradients of keys and values in relative attention in bf16; relative_tiles.cuh has the tiles and how
// diagonals are taken.
//
// A block of 128 keys goes over the queries that see them, 32 at a time. Rows are keys, in falling order:
// S^T = K (q + u)^T + diagonals of the band of distances times (q + v)^T, P^T from the log-sum-exp, dP^T = V
// dO^T - delta; P^T and dS^T are register operands of d_v += P^T dO, d_k += dS^T (q + u). Queries and the new
// distances of the next step are on their way (cp.async) meanwhile. Row sums of dS^T, times the keys, give
// the gradient of the content bias.
//
// Per 64 keys x 64 queries at D = 64, in clocks of an SM: 5.5 products, 700 at the peak, about 1,100 as
// mma.sync reaches; shared memory is read for 128 (d_k, d_v), 256 (S, dP) or 384 (band) a product, 1,150 in
// all; 128 shuffles. Shared memory: 256 + 192 + 192 rows, 91 KiB at D = 64; two blocks per SM. Registers per
// thread: 2 D for the sums, 32 + 32 for S^T and dP^T (48 for the band before).
#include <climits>

#include "kernels/cuda/attention/relative_blocks.cuh"

namespace perceiver::kernels::cuda {
namespace {

template <int kD, bool kWithDropout>
struct KeyShape {
  static constexpr int D = kD, G = kD <= 64 ? 2 : 1, kWarps = 8 / G, kThreads = 32 * kWarps;
  static constexpr int kBlocks = kD <= 64 ? 2 : 1;  // per SM
  static constexpr bool kDropout = kWithDropout;
  static constexpr int kKeys = 16 * G * kWarps, kQueries = kD <= 64 ? 32 : 16, kRing = kKeys + 2 * kQueries;
  // Shared memory, in rows.
  static constexpr int kKeyRow = 0, kValueRow = kKeys, kRingRow = 2 * kKeys, kContentRow = kRingRow + kRing,
                       kPositionRow = kContentRow + 2 * kQueries, kGradientRow = kPositionRow + 2 * kQueries,
                       kRows = kGradientRow + 2 * kQueries;
  static constexpr int kStatistics = kRows * TileRows<D>::kBytes, kBytes = kStatistics + 2 * kQueries * 8;
  static_assert(kKeys == kTensorRows && kQueryPadding % kQueries == 0);
};

template <typename S>
class KeyBlock {
  static constexpr int D = S::D, G = S::G, kThreads = S::kThreads, kQueries = S::kQueries;
  static constexpr int kColumns = kQueries / 8, kPitch = TileRows<D>::kPitch, kRowBytes = TileRows<D>::kBytes;

 public:
  __device__ KeyBlock(const RelativeBackward& a, unsigned char* memory)
      : a_(a),
        k_(a.a.forward),
        head_{a.a.forward, blockIdx.z, blockIdx.y},
        memory_(reinterpret_cast<Bf16*>(memory)),
        queries_{a, reinterpret_cast<Bf16*>(memory), reinterpret_cast<float2*>(memory + S::kStatistics)},
        shared_(shared_address(memory)),
        key_(static_cast<int>(blockIdx.x) * S::kKeys),
        warp_key_(key_ + S::kKeys - (warp_id() + 1) * 16 * G) {}

  __device__ void run() {
    load_keys();
    clear(d_key_);
    clear(d_value_);
    // Queries that see some key of the tile: not before its first key, and within the window of its last.
    first_ = max(key_ - head_.memory(), 0) / kQueries * kQueries;
    const int last_key = min(key_ + S::kKeys, static_cast<int>(k_.keys)) - 1;
    int end = static_cast<int>(k_.queries);
    if (k_.window != 0) end = min(end, last_key - head_.memory() + static_cast<int>(k_.window));
    if (last_key < head_.first) end = 0;
    if (first_ < end) {
      queries_.copy(head_, first_, 0);
      copy_distances<S::kKeys + kQueries>();
    }
    copy_commit();
    int stage = 0;
    for (int begin = first_; begin < end; begin += kQueries, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();  // These queries have arrived; all warps are done with the previous ones.
      if (begin + kQueries < end) {
        queries_.copy(head_, begin + kQueries, stage ^ 1);
        copy_distances<kQueries>();
        copy_commit();
      }
      if (begin + kQueries - 1 + head_.memory() >= warp_key_) step(begin, stage);
      read_.advance(kQueries / 16);
    }
    finish();
  }

 private:
  __device__ int key_of(int row) const { return warp_key_ + 16 * G - 1 - row; }

  __device__ void load_keys() {
    const int last = key_ + S::kKeys - 1, beyond = last + 1 - static_cast<int>(k_.keys);
    const auto copy = [&](const void* matrix, int to) {
      const Bf16* from = static_cast<const Bf16*>(matrix) + head_.key_offset(last);
      copy_rows<D, kThreads, S::kKeys>(memory_ + to * kPitch, head_.width(), a_.wide,
                                       {from, -k_.kv_stride, -beyond, INT_MAX});
    };
    copy(k_.k, S::kKeyRow);
    copy(k_.v, S::kValueRow);
  }

  /// Row y of all that go through the ring is the distance of query first_ from the last key, plus y.
  template <int kRows>
  __device__ void copy_distances() {
    const int nearest = head_.memory() + first_ - (key_ + S::kKeys - 1) + copied_;
    copy_positions<D, kThreads, kRows>(memory_ + S::kRingRow * kPitch, head_, a_.wide, nearest, 1,
                                       [&](int r) { return write_.plus(r); });
    write_.advance(kRows % S::kRing);
    copied_ += kRows;
  }

  __device__ void step(int begin, int stage) {
    float s[G][kColumns][4], dp[G][kColumns][4];
    const auto tile = [&](int row) { return shared_ + (row + stage * kQueries) * kRowBytes; };
    const uint32_t own = shared_ + warp_id() * 16 * G * kRowBytes + by_rows<D>();
    take_diagonals<G, D, kQueries>(
        [&](int i) {
          return shared_ + (S::kRingRow + read_.plus(warp_id() * G + i) * 16) * kRowBytes + by_rows<D>();
        },
        tile(S::kPositionRow) + by_columns<D>(), shift_, s);
    multiply<G, D, kColumns>(own + S::kKeyRow * kRowBytes, tile(S::kContentRow) + by_columns<D>(), s);
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const float4 two = queries_.of(stage, n);
#pragma unroll
      for (int g = 0; g < G; ++g)
#pragma unroll
        for (int e = 0; e < 4; ++e) dp[g][n][e] = S::kDropout ? 0.0f : -(e % 2 == 0 ? two.y : two.w);
    }
    multiply<G, D, kColumns>(own + S::kValueRow * kRowBytes, tile(S::kGradientRow) + by_columns<D>(), dp);
    if (head_.all_see(begin, kQueries, warp_key_, 16 * G)) {
      gradients<true>(begin, stage, s, dp);
    } else {
      gradients<false>(begin, stage, s, dp);
    }
    uint32_t operand[G][kQueries / 16][4];
    pack_operand(s, operand);
    accumulate<G, D>(operand, tile(S::kGradientRow) + by_rows<D>(), d_value_);
    pack_operand(dp, operand);
    accumulate<G, D>(operand, tile(S::kContentRow) + by_rows<D>(), d_key_);
  }

  /// Weights in place of scores, dS without the scale in place of dP.
  template <bool kAllSeen>
  __device__ void gradients(int begin, int stage, float (&s)[G][kColumns][4], float (&dp)[G][kColumns][4]) {
    const float scale = a_.scale * kLog2E;
    [[maybe_unused]] const DropoutFactors dropout(k_.dropout);
    Range seen[G][2];
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        seen[g][half] = head_.queries_of(key_of(16 * g + row_of(2 * half)));
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const float4 two = queries_.of(stage, n);
#pragma unroll
      for (int g = 0; g < G; ++g)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int query = begin + column_of(n, e);
          float& p = s[g][n][e];
          float& ds = dp[g][n][e];
          p = exp2_fast(fmaf(p, scale, -(e % 2 == 0 ? two.x : two.z)));
          if (!kAllSeen && !seen[g][e / 2].has(query)) p = 0;
          if constexpr (S::kDropout) {
            float factor[1];
            dropout.get(head_.element(query, key_of(16 * g + row_of(e))), factor);
            ds = p * (factor[0] * ds - (e % 2 == 0 ? two.y : two.w));
            p *= factor[0];
          } else {
            ds *= p;
          }
          row_sums_[g][e / 2] += ds;
        }
    }
  }

  __device__ void finish() {
    copy_wait<0>();
    const auto target = [&](void* matrix, int r) -> Bf16* {
      const int key = key_of(r);
      return key < k_.keys ? static_cast<Bf16*>(matrix) + head_.key_offset(key) : nullptr;
    };
    store_rows<G, D>(d_key_, a_.scale, head_.width(), a_.wide, [&](int r) { return target(a_.a.d_k, r); });
    store_rows<G, D>(d_value_, 1.0f, head_.width(), a_.wide, [&](int r) { return target(a_.a.d_v, r); });
    const int64_t part = head_.example * gridDim.x + blockIdx.x;
    weigh_rows<G, D, kThreads>(
        row_sums_, head_.width(), reinterpret_cast<float*>(memory_ + S::kContentRow * kPitch), a_.scale,
        a_.scratch.content_biases + part * head_.row_width() + head_.head * k_.head_dim,
        [&](int r) { return memory_ + (S::kKeyRow + r) * kPitch; });
  }

  const RelativeBackward& a_;
  const RelativeAttention& k_;
  const RelativeHead<Bf16> head_;
  Bf16* const memory_;
  const QueryTiles<S> queries_;
  const uint32_t shared_;
  const int key_, warp_key_;  // the first keys of the block and of the warp
  int first_, copied_ = 0;
  RingIndex<S::kRing> write_;
  RingIndex<S::kRing / 16> read_;
  const RowShift shift_;
  float d_key_[G][D / 8][4], d_value_[G][D / 8][4], row_sums_[G][2] = {};
};

template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    relative_key_tensor_kernel(const __grid_constant__ RelativeBackward a) {
  extern __shared__ __align__(128) unsigned char memory[];
  KeyBlock<S>(a, memory).run();
}

template <typename S>
void launch_key(const Launch& launch, const RelativeBackward& a) {
  const RelativeAttention& k = a.a.forward;
  allow_shared(relative_key_tensor_kernel<S>, S::kBytes);
  relative_key_tensor_kernel<S>
      <<<grid_of(ceil_div(k.keys, S::kKeys), k.heads, k.batch), S::kThreads, S::kBytes, stream_of(launch)>>>(
          a);
  check_launch("relative_key_tensor_kernel");
}

}  // namespace

void relative_key_tensor(const Launch& launch, const RelativeBackward& a) {
  with_width(a.a.forward, [&]<int D>() {
    if (a.a.forward.dropout.threshold > 0) return launch_key<KeyShape<D, true>>(launch, a);
    launch_key<KeyShape<D, false>>(launch, a);
  });
}

}  // namespace perceiver::kernels::cuda
