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
#include "kernels/cuda/attention/relative_tiles.cuh"

namespace perceiver::kernels::cuda {
namespace {

template <int kD, bool kWithDropout>
struct QueryShape {
  static constexpr int D = kD, G = kD <= 64 ? 2 : 1, kWarps = 8 / G, kThreads = 32 * kWarps;
  static constexpr int kBlocks = kD <= 64 ? 2 : 1;  // per SM
  static constexpr bool kDropout = kWithDropout;
  static constexpr int kGroups = G * kWarps, kQueries = 16 * kGroups, kKeys = 32;
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
      : a_(a),
        k_(a.a.forward),
        head_{a.a.forward, blockIdx.z, blockIdx.y},
        memory_(memory),
        shared_(shared_address(memory)),
        begin_(static_cast<int>(gridDim.x - 1 - blockIdx.x) * S::kQueries),
        query_(begin_ + warp_id() * 16 * G) {}

  __device__ void run() {
    const int count = min(S::kQueries, static_cast<int>(k_.queries) - begin_);
    key_begin_ = head_.key_begin(begin_);
    key_end_ = head_.key_end(begin_ + count);
    clear(sum_);
    load_queries(count);
    if (key_begin_ < key_end_) {
      copy_keys(key_begin_, 0);
      copy_distances<kKeys + S::kQueries>();
    }
    copy_commit();
    int stage = 0;
    bool going = true;
    for (int key = key_begin_; key < key_end_; key += kKeys, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();  // This tile has arrived; all warps are done with the previous one.
      if (key + kKeys < key_end_) {
        copy_keys(key + kKeys, stage ^ 1);
        copy_distances<kKeys>();
        copy_commit();
      }
      if (key == key_begin_) band_of_columns<1>(0, 0);
      if (!going) continue;
      // Later keys, too, are hidden from all the warp's queries.
      going = key <= head_.memory() + query_ + 16 * G - 1;
      if (going) {
        step(key, stage);
      } else {
        finish_band();
      }
    }
    if (going && key_begin_ < key_end_) finish_band();
    copy_wait<0>();
    store_rows<G, D>(sum_, a_.scale, head_.width(), a_.wide, [&](int r) {
      Bf16* row = static_cast<Bf16*>(a_.a.d_q) + head_.head * k_.head_dim +
                  (head_.example * k_.queries + query_ + r) * k_.q_stride;
      return query_ + r < k_.queries ? row : nullptr;
    });
  }

 private:
  __device__ int64_t scratch_row() const {
    return (head_.example * k_.heads + head_.head) * a_.scratch.padded_queries + begin_;
  }

  __device__ void load_queries(int count) {
    const auto copy = [&](const Bf16* matrix, int to) {
      copy_rows<D, kThreads, S::kQueries>(memory_ + to * kPitch, D, true,
                                          {matrix + scratch_row() * D, D, 0, S::kQueries});
    };
    copy(a_.scratch.content, S::kContentRow);
    copy(a_.scratch.position, S::kPositionRow);
    copy_rows<D, kThreads, S::kQueries>(
        memory_ + S::kGradientRow * kPitch, head_.width(), a_.wide,
        {head_.queries(a_.a.d_out, k_.out_stride, begin_), k_.out_stride, 0, count});
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

  __device__ void copy_keys(int key, int stage) {
    const int64_t offset = head_.key_offset(key);
    const auto copy = [&](const void* matrix, int to) {
      const Bf16* from = static_cast<const Bf16*>(matrix) + offset;
      copy_rows<D, kThreads, kKeys>(memory_ + (to + stage * kKeys) * kPitch, head_.width(), a_.wide,
                                    {from, k_.kv_stride, key, key_end_});
    };
    copy(k_.k, S::kKeyRow);
    copy(k_.v, S::kValueRow);
  }

  /// Row z of all that go through the ring is the distance of the last query from key_begin_ + z.
  template <int kRows>
  __device__ void copy_distances() {
    const int farthest = head_.memory() + begin_ + S::kQueries - 1 - key_begin_ - copied_;
    copy_positions<D, kThreads, kRows>(memory_ + S::kRingRow * kPitch, head_, a_.wide, farthest, -1,
                                       [&](int r) { return write_.plus(r); });
    write_.advance(kRows % S::kRing);
    copied_ += kRows;
  }

  /// The ring's 16 rows with the distances of the first 16 columns of the warp's last group's band, and
  /// `chunk` * 16 columns on.
  __device__ uint32_t ring_chunk(int chunk) const {
    const int own = S::kGroups - G - warp_id() * G;
    return shared_ + (S::kRingRow + read_.plus(own + chunk) * 16) * kRowBytes;
  }

  /// kChunks * 16 columns of the band, from fragment `to` on; of the warp's last group they start with the
  /// ring's chunk `from` after its own first.
  template <int kChunks>
  __device__ void band_of_columns(int from, int to) {
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < 2 * kChunks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s_[g][to + n][e] = 0;
    const uint32_t own = shared_ + (S::kPositionRow + warp_id() * 16 * G) * kRowBytes + by_rows<D>();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t x[G][4];
#pragma unroll
      for (int g = 0; g < G; ++g) load_matrices(x[g], own + g * (16 * kRowBytes) + k * 32);
#pragma unroll
      for (int chunk = 0; chunk < kChunks + G - 1; ++chunk) {
        uint32_t y[4];
        load_matrices(y, ring_chunk(from + chunk) + by_columns<D>() + k * 32);
#pragma unroll
        for (int g = 0; g < G; ++g) {
          const int part = chunk - (G - 1 - g);  // constant once unrolled
          if (part < 0 || part >= kChunks) continue;
          multiply_add(s_[g][to + 2 * part], x[g], y[0], y[1]);
          multiply_add(s_[g][to + 2 * part + 1], x[g], y[2], y[3]);
        }
      }
    }
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < 2 * kChunks; ++n) shift_.order(s_[g][to + n]);
  }

  /// Adds what kChunks * 16 columns of the band of dS, as operands, give with their distances.
  template <int kChunks>
  __device__ void add_positions(const uint32_t (&band)[G][kChunks][4]) {
#pragma unroll
    for (int chunk = 0; chunk < kChunks + G - 1; ++chunk) {
      const uint32_t at = ring_chunk(chunk) + by_rows<D>();
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
        shift_.put(pairs, pending_[g]);
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
    band_of_columns<kKeys / 16>(1, 2);
    float carried[G][2][4];
#pragma unroll
    for (int g = 0; g < G; ++g) {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) carried[g][n][e] = s_[g][kColumns + n][e];
#pragma unroll
      for (int n = 0; n < kColumns; ++n) shift_.take(s_[g][n], s_[g][n + 1], s_[g][n + 2], s_[g][n]);
    }
    const uint32_t own = shared_ + warp_id() * 16 * G * kRowBytes + by_rows<D>();
    const uint32_t keys = shared_ + (S::kKeyRow + stage * kKeys) * kRowBytes;
    multiply<G, D, kColumns>(own + S::kContentRow * kRowBytes, keys + by_columns<D>(), s_);
    float dp[G][kColumns][4];
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) dp[g][n][e] = S::kDropout ? 0.0f : -delta_[g][e / 2];
    multiply<G, D, kColumns>(own + S::kGradientRow * kRowBytes,
                             shared_ + (S::kValueRow + stage * kKeys) * kRowBytes + by_columns<D>(), dp);
    if (key + kKeys > key_end_ || !head_.all_see(query_, 16 * G, key, kKeys)) {
      gradients<false>(key, dp);
    } else {
      gradients<true>(key, dp);
    }
    uint32_t ds[G][kKeys / 16][4];
    pack_operand(dp, ds);
    accumulate<G, D>(ds, keys + by_rows<D>(), sum_);
    move_to_band(ds);
    add_positions(ds);
    read_.advance(kKeys / 16);
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s_[g][n][e] = carried[g][n][e];
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
        const int query = query_ + 16 * g + row_of(2 * half);
        const Range seen = head_.keys_of(query);
#pragma unroll
        for (int n = 0; n < kColumns; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            float& x = dp[g][n][e];
            if constexpr (S::kDropout) {
              float factor[1];
              dropout.get(head_.element(query, key + column_of(n, e)), factor);
              x = factor[0] * x - delta_[g][half];
            }
            x *= exp2_fast(fmaf(s_[g][n][e], scale, -lse_[g][half]));
            if (!kAllSeen && !seen.has(key + column_of(n, e))) x = 0;
          }
      }
  }

  const RelativeBackward& a_;
  const RelativeAttention& k_;
  const RelativeHead<Bf16> head_;
  Bf16* const memory_;
  const uint32_t shared_;
  const int begin_, query_;
  int key_begin_, key_end_, copied_ = 0;
  RingIndex<S::kRing> write_;
  RingIndex<S::kRing / 16> read_;
  const ColumnShift shift_;
  ColumnShift::Pending pending_[G];
  float s_[G][kColumns + 2][4];  // the band from fragment 2 on, with 16 columns of the last step before it
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
