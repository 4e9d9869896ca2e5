// Gradient of queries in relative attention in bf16; relative_tiles.cuh has the tiles and how diagonals are
// taken.
//
// A block of 128 queries goes over the keys they see, 32 at a time. Scores as in the forward pass (band of
// q + v moved to the diagonals, plus q + u times keys), weights from the log-sum-exp, dP = dO · V - delta, dS
// from the registers times keys; dS moved back to a band, in pairs of bf16, times the same rows of distances.
// Both sums share one accumulator: the sums for the biases come from the kernels of keys and distances.
//
// Per 64 queries x 64 keys at D = 64, in clocks of an SM: 5 products, 650 at the peak, about 1,000 as
// mma.sync reaches; shared memory is read for 128 a product, and twice that where queries are read again each
// step; 256 shuffles. Shared memory: 3 * 128 + 4 * 32 + 192 rows, 99 KiB at D = 64; two blocks per SM.
// Registers per thread: D for the sums, 4 * 12 for scores and band, 32 for dP.
#include "kernels/cuda/attention/relative_blocks.cuh"

namespace perceiver::kernels::cuda {
namespace {

template <int kD, bool kWithDropout>
struct QueryShape {
  static constexpr int D = kD, G = kD <= 64 ? 2 : 1, kWarps = 8 / G, kThreads = 32 * kWarps;
  static constexpr int kBlocks = kD <= 64 ? 2 : 1;  // per SM
  static constexpr bool kDropout = kWithDropout;
  static constexpr int kGroups = G * kWarps, kQueries = 16 * kGroups, kKeys = 32, kStep = kKeys;
  static constexpr int kRing = 2 * kKeys + kQueries;
  // Shared memory, in rows.
  static constexpr int kContentRow = 0, kPositionRow = kQueries, kGradientRow = 2 * kQueries,
                       kKeyRow = 3 * kQueries, kValueRow = kKeyRow + 2 * kKeys,
                       kRingRow = kValueRow + 2 * kKeys, kRows = kRingRow + kRing;
  static constexpr int kBytes = kRows * TileRows<D>::kBytes;
  static_assert(kQueries == kTensorRows && kQueryPadding % kQueries == 0);
};

template <typename S>
class QueryBlock {
  static constexpr int D = S::D, G = S::G, kThreads = S::kThreads, kKeys = S::kKeys;
  static constexpr int kColumns = kKeys / 8, kPitch = TileRows<D>::kPitch, kRowBytes = TileRows<D>::kBytes;

 public:
  __device__ QueryBlock(const RelativeBackward& a, Bf16* memory)
      : a_(a), k_(a.a.forward), rows_(a.a.forward, a.wide, memory) {}

  __device__ void run() {
    clear(sum_);
    load_queries();
    rows_.copy_first();
    copy_commit();
    int stage = 0;
    bool going = true;
    for (int key = rows_.key_begin; key < rows_.key_end; key += kKeys, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();  // This tile has arrived; all warps are done with the previous one.
      rows_.copy_next(key + kKeys, stage ^ 1);
      if (key == rows_.key_begin) rows_.start_band(position_operand());
      if (!going) continue;
      going = !rows_.done_at(key);
      if (going) {
        step(key, stage);
      } else {
        finish_band();
      }
    }
    if (going && rows_.key_begin < rows_.key_end) finish_band();
    copy_wait<0>();
    store_rows<G, D>(sum_, a_.scale, rows_.head.width(), a_.wide, [&](int r) {
      Bf16* row = static_cast<Bf16*>(a_.a.d_q) + rows_.head.head * k_.head_dim +
                  (rows_.head.example * k_.queries + rows_.query + r) * k_.q_stride;
      return rows_.query + r < k_.queries ? row : nullptr;
    });
  }

 private:
  __device__ int64_t scratch_row() const {
    return (rows_.head.example * k_.heads + rows_.head.head) * a_.scratch.padded_queries + rows_.begin;
  }

  __device__ void load_queries() {
    const auto copy = [&](const Bf16* matrix, int to) {
      copy_rows<D, kThreads, S::kQueries>(rows_.memory + to * kPitch, D, true,
                                          {matrix + scratch_row() * D, D, 0, S::kQueries});
    };
    copy(a_.scratch.content, S::kContentRow);
    copy(a_.scratch.position, S::kPositionRow);
    copy_rows<D, kThreads, S::kQueries>(
        rows_.memory + S::kGradientRow * kPitch, rows_.head.width(), a_.wide,
        {rows_.head.queries(a_.a.d_out, k_.out_stride, rows_.begin), k_.out_stride, 0, rows_.count});
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 statistics =
            a_.scratch.statistics[scratch_row() + (warp_id() * G + g) * 16 + row_of(2 * half)];
        lse_[g][half] = statistics.x;
        delta_[g][half] = statistics.y;
      }
  }

  /// This warp's rows of a matrix in shared memory, as operand A.
  __device__ uint32_t own(int matrix_row) const {
    return rows_.shared + (matrix_row + warp_id() * 16 * G) * kRowBytes + by_rows<D>();
  }

  __device__ auto position_operand() const {
    return [this](int k, uint32_t(&x)[G][4]) {
#pragma unroll
      for (int g = 0; g < G; ++g) load_matrices(x[g], own(S::kPositionRow) + g * (16 * kRowBytes) + k * 32);
    };
  }

  /// Adds what kChunks * 16 columns of the band of dS, as operands, give with their distances.
  template <int kChunks>
  __device__ void add_positions(const uint32_t (&band)[G][kChunks][4]) {
#pragma unroll
    for (int chunk = 0; chunk < kChunks + G - 1; ++chunk) {
      const uint32_t at = rows_.ring_chunk(chunk) + by_rows<D>();
#pragma unroll
      for (int n = 0; n < D / 8; n += 2) {
        uint32_t y[4];
        load_matrices_transposed(y, at + n * 16);
#pragma unroll
        for (int g = 0; g < G; ++g) {
          const int part = chunk - (G - 1 - g);  // constant once unrolled
          if (part < 0 || part >= kChunks) continue;
          multiply_add(sum_[g][n], band[g][part], y[0], y[1]);
          multiply_add(sum_[g][n + 1], band[g][part], y[2], y[3]);
        }
      }
    }
  }

  /// Turns operands of a tile into those of its band.
  template <int kChunks>
  __device__ void move_to_band(uint32_t (&a)[G][kChunks][4]) {
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < 2 * kChunks; ++n) {
        uint32_t pairs[2] = {a[g][n / 2][n % 2 * 2], a[g][n / 2][n % 2 * 2 + 1]};
        rows_.shift.put(pairs, pending_[g]);
        a[g][n / 2][n % 2 * 2] = pairs[0];
        a[g][n / 2][n % 2 * 2 + 1] = pairs[1];
      }
  }

  /// The band's last 16 columns.
  __device__ void finish_band() {
    uint32_t band[G][1][4] = {};
    move_to_band(band);
    add_positions(band);
  }

  __device__ void step(int key, int stage) {
    rows_.next_scores(position_operand());
    const uint32_t keys = rows_.shared + (S::kKeyRow + stage * kKeys) * kRowBytes;
    multiply<G, D, kColumns>(own(S::kContentRow), keys + by_columns<D>(), rows_.s);
    float dp[G][kColumns][4];
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) dp[g][n][e] = S::kDropout ? 0.0f : -delta_[g][e / 2];
    multiply<G, D, kColumns>(own(S::kGradientRow),
                             rows_.shared + (S::kValueRow + stage * kKeys) * kRowBytes + by_columns<D>(), dp);
    if (rows_.all_see(key)) {
      gradients<true>(key, dp);
    } else {
      gradients<false>(key, dp);
    }
    uint32_t ds[G][kKeys / 16][4];
    pack_operand(dp, ds);
    accumulate<G, D>(ds, keys + by_rows<D>(), sum_);
    move_to_band(ds);
    add_positions(ds);
    rows_.advance();
  }

  /// dS, without the scale, from dP.
  template <bool kAllSeen>
  __device__ void gradients(int key, float (&dp)[G][kColumns][4]) {
    const float scale = a_.scale * kLog2E;
    [[maybe_unused]] const DropoutFactors dropout(k_.dropout);
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = rows_.query + 16 * g + row_of(2 * half);
        const Range seen = rows_.head.keys_of(query);
#pragma unroll
        for (int n = 0; n < kColumns; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            float& x = dp[g][n][e];
            if constexpr (S::kDropout) {
              float factor[1];
              dropout.get(rows_.head.element(query, key + column_of(n, e)), factor);
              x = factor[0] * x - delta_[g][half];
            }
            x *= exp2_fast(fmaf(rows_.s[g][n][e], scale, -lse_[g][half]));
            if (!kAllSeen && !seen.has(key + column_of(n, e))) x = 0;
          }
      }
  }

  const RelativeBackward& a_;
  const RelativeAttention& k_;
  QueryRows<S> rows_;
  ColumnShift::Pending pending_[G];
  float sum_[G][D / 8][4], lse_[G][2], delta_[G][2];
};

template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    relative_query_tensor_kernel(const __grid_constant__ RelativeBackward a) {
  extern __shared__ __align__(128) unsigned char memory[];
  QueryBlock<S>(a, reinterpret_cast<Bf16*>(memory)).run();
}

template <typename S>
void launch_query(const Launch& launch, const RelativeBackward& a) {
  const RelativeAttention& k = a.a.forward;
  allow_shared(relative_query_tensor_kernel<S>, S::kBytes);
  relative_query_tensor_kernel<S><<<grid_of(ceil_div(k.queries, S::kQueries), k.heads, k.batch), S::kThreads,
                                    S::kBytes, stream_of(launch)>>>(a);
  check_launch("relative_query_tensor_kernel");
}

}  // namespace

void relative_query_tensor(const Launch& launch, const RelativeBackward& a) {
  with_width(a.a.forward, [&]<int D>() {
    if (a.a.forward.dropout.threshold > 0) return launch_query<QueryShape<D, true>>(launch, a);
    launch_query<QueryShape<D, false>>(launch, a);
  });
}

}  // namespace perceiver::kernels::cuda
