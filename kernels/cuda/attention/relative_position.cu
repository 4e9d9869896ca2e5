// Gradient of positions in relative attention in bf16; relative_tiles.cuh has the tiles and how diagonals are
// taken.
//
// A block of 128 distances of a head goes over examples and their queries, 32 at a time. Distances and keys
// change roles: rows are distances, in falling order, S^T = positions (q + v)^T + diagonals of the band of
// keys times (q + u)^T, dP^T = diagonals of the band of values times dO^T - delta. dS^T from the registers
// times (q + v) adds up over the examples of a split; the sums of splits, in f32, go to the scratch, where
// the last row of the table later takes all distances beyond it. Row sums of dS^T, times the positions, give
// the gradient of the position bias.
//
// Per 64 distances x 64 queries at D = 64, in clocks of an SM: 5 products, 650 at the peak, about 1,000 as
// mma.sync reaches; shared memory is read for 128 (S, sums) or 384 (bands) a product, 1,000 in all; 256
// shuffles. Positions stay in registers. Shared memory: 2 * 192 + 192 rows, 82 KiB at D = 64; two blocks per
// SM. Registers per thread: D for the sums, D / 2 for positions, 32 + 48 for S^T and a band.
#include "kernels/cuda/attention/relative_blocks.cuh"

namespace perceiver::kernels::cuda {
namespace {

template <int kD, bool kWithDropout>
struct PositionShape {
  static constexpr int D = kD, G = kD <= 64 ? 2 : 1, kWarps = 8 / G, kThreads = 32 * kWarps;
  static constexpr int kBlocks = kD <= 64 ? 2 : 1;  // per SM
  static constexpr bool kDropout = kWithDropout;
  static constexpr int kDistances = 16 * G * kWarps, kQueries = kD <= 64 ? 32 : 16,
                       kRing = kDistances + 2 * kQueries;
  // Shared memory, in rows. Positions lie where keys come later, until they are in registers.
  static constexpr int kKeyRow = 0, kValueRow = kRing, kContentRow = 2 * kRing,
                       kPositionRow = kContentRow + 2 * kQueries, kGradientRow = kPositionRow + 2 * kQueries,
                       kRows = kGradientRow + 2 * kQueries;
  static constexpr int kStatistics = kRows * TileRows<D>::kBytes, kBytes = kStatistics + 2 * kQueries * 8;
  static_assert(kDistances == kTensorRows && kQueryPadding % kQueries == 0);
};

template <typename S>
class PositionBlock {
  static constexpr int D = S::D, G = S::G, kThreads = S::kThreads, kQueries = S::kQueries;
  static constexpr int kColumns = kQueries / 8, kPitch = TileRows<D>::kPitch, kRowBytes = TileRows<D>::kBytes;

 public:
  __device__ PositionBlock(const RelativeBackward& a, unsigned char* memory)
      : a_(a),
        k_(a.a.forward),
        head_{a.a.forward, 0, blockIdx.y},
        memory_(reinterpret_cast<Bf16*>(memory)),
        queries_{a, reinterpret_cast<Bf16*>(memory), reinterpret_cast<float2*>(memory + S::kStatistics)},
        shared_(shared_address(memory)),
        distance_(static_cast<int>(blockIdx.x) * S::kDistances),
        warp_distance_(distance_ + S::kDistances - (warp_id() + 1) * 16 * G) {}

  __device__ void run() {
    load_positions();
    clear(sum_);
    const int64_t split = blockIdx.z, last = k_.batch * (split + 1) / a_.splits;
    const bool in_window = k_.window == 0 || distance_ < k_.window;
    for (int64_t example = k_.batch * split / a_.splits; in_window && example < last; ++example) {
      head_.move_to(example);
      add_example();
    }
    finish(split);
  }

 private:
  __device__ int distance_of(int row) const { return warp_distance_ + 16 * G - 1 - row; }

  __device__ void load_positions() {
    copy_positions<D, kThreads, S::kDistances>(memory_, head_, a_.wide, distance_ + S::kDistances - 1, -1,
                                               [](int r) { return r; });
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    load_operand<G, D>(shared_ + warp_id() * 16 * G * kRowBytes + by_rows<D>(), positions_);
  }

  __device__ void add_example() {
    __syncthreads();  // All warps are done with the tiles of the previous example, or with the positions.
    // Query i is at distance t from key m + i - t: those before first + t - m have no key there.
    first_ = max(distance_ - head_.memory() + head_.first, 0) / kQueries * kQueries;
    write_ = {};
    read_ = {};
    copied_ = 0;
    const int end = static_cast<int>(k_.queries);
    if (first_ >= end) return;
    queries_.copy(head_, first_, 0);
    copy_keys<S::kDistances + kQueries>();
    copy_commit();
    int stage = 0;
    for (int begin = first_; begin < end; begin += kQueries, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();  // These queries have arrived; all warps are done with the previous ones.
      if (begin + kQueries < end) {
        queries_.copy(head_, begin + kQueries, stage ^ 1);
        copy_keys<kQueries>();
        copy_commit();
      }
      if (head_.memory() + begin + kQueries - 1 - warp_distance_ >= head_.first) step(begin, stage);
      read_.advance(kQueries / 16);
    }
  }

  /// Row y of all that go through the rings is the key at the largest distance from query first_, plus y.
  template <int kRows>
  __device__ void copy_keys() {
    const int nearest = head_.memory() + first_ - (distance_ + S::kDistances - 1) + copied_;
    const auto copy = [&](const void* matrix, int to) {
      const Bf16* from = static_cast<const Bf16*>(matrix) + head_.key_offset(nearest);
      copy_rows<D, kThreads, kRows>(memory_ + to * kPitch, head_.width(), a_.wide,
                                    {from, k_.kv_stride, nearest, static_cast<int>(k_.keys)},
                                    [&](int r) { return write_.plus(r); });
    };
    copy(k_.k, S::kKeyRow);
    copy(k_.v, S::kValueRow);
    write_.advance(kRows % S::kRing);
    copied_ += kRows;
  }

  __device__ void step(int begin, int stage) {
    float s[G][kColumns][4], dp[G][kColumns][4];
    const auto tile = [&](int row) { return shared_ + (row + stage * kQueries) * kRowBytes; };
    const auto ring = [&](int row) {
      return [this, row](int i) {
        return shared_ + (row + read_.plus(warp_id() * G + i) * 16) * kRowBytes + by_rows<D>();
      };
    };
    take_diagonals<G, D, kQueries>(ring(S::kKeyRow), tile(S::kContentRow) + by_columns<D>(), shift_, s);
    multiply<G, D, kColumns>(positions_, tile(S::kPositionRow) + by_columns<D>(), s);
    take_diagonals<G, D, kQueries>(ring(S::kValueRow), tile(S::kGradientRow) + by_columns<D>(), shift_, dp);
    const int farthest = warp_distance_ + 16 * G - 1;
    if (head_.memory() + begin - farthest >= head_.first && (k_.window == 0 || farthest < k_.window)) {
      gradients<true>(begin, stage, s, dp);
    } else {
      gradients<false>(begin, stage, s, dp);
    }
    uint32_t operand[G][kQueries / 16][4];
    pack_operand(dp, operand);
    accumulate<G, D>(operand, tile(S::kPositionRow) + by_rows<D>(), sum_);
  }

  /// dS, without the scale, in place of dP.
  template <bool kAllSeen>
  __device__ void gradients(int begin, int stage, const float (&s)[G][kColumns][4],
                            float (&dp)[G][kColumns][4]) {
    const float scale = a_.scale * kLog2E;
    [[maybe_unused]] const DropoutFactors dropout(k_.dropout);
    Range seen[G][2];
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        seen[g][half] = head_.queries_at(distance_of(16 * g + row_of(2 * half)));
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const float4 two = queries_.of(stage, n);
#pragma unroll
      for (int g = 0; g < G; ++g)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int query = begin + column_of(n, e);
          float& ds = dp[g][n][e];
          if constexpr (S::kDropout) {
            float factor[1];
            dropout.get(head_.element(query, head_.memory() + query - distance_of(16 * g + row_of(e))),
                        factor);
            ds *= factor[0];
          }
          ds = (ds - (e % 2 == 0 ? two.y : two.w)) *
               exp2_fast(fmaf(s[g][n][e], scale, -(e % 2 == 0 ? two.x : two.z)));
          if (!kAllSeen && !seen[g][e / 2].has(query)) ds = 0;
          row_sums_[g][e / 2] += ds;
        }
    }
  }

  __device__ void finish(int64_t split) {
    const int64_t width = head_.row_width(), offset = head_.head * k_.head_dim;
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int distance = distance_of(16 * g + row_of(e));
        if (distance >= k_.keys) continue;
        float* row = a_.scratch.positions + (split * k_.keys + distance) * width + offset;
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
          if (column_of(n, e) < k_.head_dim) row[column_of(n, e)] = sum_[g][n][e] * a_.scale;
      }
    const int64_t part = split * gridDim.x + blockIdx.x;
    weigh_rows<G, D, kThreads>(row_sums_, head_.width(),
                               reinterpret_cast<float*>(memory_ + S::kContentRow * kPitch), a_.scale,
                               a_.scratch.position_biases + part * width + offset,
                               [&](int r) { return head_.position(distance_ + S::kDistances - 1 - r); });
  }

  const RelativeBackward& a_;
  const RelativeAttention& k_;
  RelativeHead<Bf16> head_;
  Bf16* const memory_;
  const QueryTiles<S> queries_;
  const uint32_t shared_;
  const int distance_, warp_distance_;  // the least of the block and of the warp
  int first_, copied_ = 0;
  RingIndex<S::kRing> write_;
  RingIndex<S::kRing / 16> read_;
  const RowShift shift_;
  uint32_t positions_[G][D / 16][4];
  float sum_[G][D / 8][4], row_sums_[G][2] = {};
};

template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    relative_position_tensor_kernel(const __grid_constant__ RelativeBackward a) {
  extern __shared__ __align__(128) unsigned char memory[];
  PositionBlock<S>(a, memory).run();
}

template <typename S>
void launch_position(const Launch& launch, const RelativeBackward& a) {
  const RelativeAttention& k = a.a.forward;
  allow_shared(relative_position_tensor_kernel<S>, S::kBytes);
  relative_position_tensor_kernel<S><<<grid_of(ceil_div(k.keys, S::kDistances), k.heads, a.splits),
                                       S::kThreads, S::kBytes, stream_of(launch)>>>(a);
  check_launch("relative_position_tensor_kernel");
}

}  // namespace

void relative_position_tensor(const Launch& launch, const RelativeBackward& a) {
  with_width(a.a.forward, [&]<int D>() {
    if (a.a.forward.dropout.threshold > 0) return launch_position<PositionShape<D, true>>(launch, a);
    launch_position<PositionShape<D, false>>(launch, a);
  });
}

}  // namespace perceiver::kernels::cuda
