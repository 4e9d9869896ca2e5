// Relative attention forward in bf16; relative_tiles.cuh has the tiles and how diagonals are taken.
//
// A block of 128 queries goes over the keys they see in tiles of 64, from the first on. Queries plus biases
// stay in registers as operands. Per 32 keys: band of q + v with the 32 distances that are new, moved to the
// diagonals, where the products of q + u with the keys are added to it; online softmax in base 2; weights
// from the registers times values. Keys, values and distances of the next tile are on their way (cp.async)
// meanwhile. Tiles start at the first key, so only the last ones, and windows, need masks.
//
// Per 64 queries x 64 keys at D = 64, in clocks of an SM: 3 products of 64 x 64 x 64, 130 each at the peak,
// about 200 as mma.sync reaches; shared memory is read for 128 a product; 128 shuffles (a clock each), so
// 600 to 700. Shared memory: 4 * 64 + 256 rows, 72 KiB at D = 64; two blocks per SM. Registers per thread:
// D for the sums, 4 * 12 for scores and band, D for the queries.
#include "kernels/cuda/attention/relative_tiles.cuh"

namespace perceiver::kernels::cuda {
namespace {

template <int kD, bool kWithDropout>
struct ForwardShape {
  static constexpr int D = kD, G = kD <= 64 ? 2 : 1, kWarps = 8 / G, kThreads = 32 * kWarps;
  static constexpr int kBlocks = kD <= 64 ? 2 : 1;  // per SM
  static constexpr bool kDropout = kWithDropout;
  static constexpr int kGroups = G * kWarps, kQueries = 16 * kGroups, kKeys = 64, kStep = 32;
  static constexpr int kRing = 2 * kKeys + kQueries;
  // Shared memory, in rows. The queries lie where keys and values come later.
  static constexpr int kKeyRow = 0, kValueRow = 2 * kKeys, kRingRow = 4 * kKeys, kRows = kRingRow + kRing;
  static constexpr int kBytes = kRows * TileRows<D>::kBytes;
  static_assert(kRows >= 2 * kQueries && kQueries == kTensorRows);
};

template <typename S>
class ForwardBlock {
  static constexpr int D = S::D, G = S::G, kThreads = S::kThreads, kKeys = S::kKeys, kStep = S::kStep;
  static constexpr int kColumns = kStep / 8, kPitch = TileRows<D>::kPitch, kRowBytes = TileRows<D>::kBytes;

 public:
  __device__ ForwardBlock(const RelativeForward& a, Bf16* memory)
      : a_(a),
        k_(a.k),
        head_{a.k, blockIdx.z, blockIdx.y},
        memory_(memory),
        shared_(shared_address(memory)),
        // Late queries see more keys, so they go first.
        begin_(static_cast<int>(gridDim.x - 1 - blockIdx.x) * S::kQueries),
        query_(begin_ + warp_id() * 16 * G) {}

  __device__ void run() {
    const int count = min(S::kQueries, static_cast<int>(k_.queries) - begin_);
    load_queries(count);
    clear(out_);
    for (int g = 0; g < G; ++g)
      for (int half = 0; half < 2; ++half) {
        largest_[g][half] = -INFINITY;
        sum_[g][half] = 0;
      }
    key_begin_ = head_.key_begin(begin_);
    key_end_ = head_.key_end(begin_ + count);
    if (key_begin_ < key_end_) {
      copy_keys(key_begin_, 0);
      copy_distances<kKeys + S::kQueries>();
      copy_commit();
    }
    int stage = 0;
    for (int key = key_begin_; key < key_end_; key += kKeys, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();  // This tile has arrived; all warps are done with the previous one.
      if (key + kKeys < key_end_) {
        copy_keys(key + kKeys, stage ^ 1);
        copy_distances<kKeys>();
        copy_commit();
      }
      if (key == key_begin_) band_of_columns<1>(0, 0);
#pragma unroll 1
      for (int part = 0; part < kKeys / kStep; ++part) step(key + part * kStep, stage, part);
    }
    finish();
  }

 private:
  /// q + u and q + v to shared memory, then to registers.
  __device__ void load_queries(int count) {
    constexpr int kPairs = D / 2;
    const auto* u = static_cast<const Bf16*>(k_.content_bias) + head_.head * k_.head_dim;
    const auto* v = static_cast<const Bf16*>(k_.position_bias) + head_.head * k_.head_dim;
    Bf16 *content = memory_, *position = memory_ + S::kQueries * kPitch;
    const int column = static_cast<int>(threadIdx.x) % kPairs * 2;
    const bool first = column < k_.head_dim, second = column + 1 < k_.head_dim;
    const float2 bias_u{first ? to_float(u[column]) : 0.0f, second ? to_float(u[column + 1]) : 0.0f};
    const float2 bias_v{first ? to_float(v[column]) : 0.0f, second ? to_float(v[column + 1]) : 0.0f};
#pragma unroll 8
    for (int row = static_cast<int>(threadIdx.x) / kPairs; row < S::kQueries; row += kThreads / kPairs) {
      const bool inside = row < count;
      const Bf16* from = head_.queries(k_.q, k_.q_stride, begin_ + row) + column;
      const float2 q = load_pair(from, a_.wide, inside && first, inside && second);
      const uint32_t sum_u = inside ? pack(q.x + bias_u.x, q.y + bias_u.y) : 0;
      const uint32_t sum_v = inside ? pack(q.x + bias_v.x, q.y + bias_v.y) : 0;
      *reinterpret_cast<uint32_t*>(content + row * kPitch + column) = sum_u;
      *reinterpret_cast<uint32_t*>(position + row * kPitch + column) = sum_v;
    }
    __syncthreads();
    const uint32_t own = shared_ + warp_id() * 16 * G * kRowBytes + by_rows<D>();
    load_operand<G, D>(own, content_);
    load_operand<G, D>(own + S::kQueries * kRowBytes, position_);
    __syncthreads();
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
    const int own = S::kGroups - G - warp_id() * G + from;
    uint32_t rows[kChunks + G - 1];
#pragma unroll
    for (int chunk = 0; chunk < kChunks + G - 1; ++chunk)
      rows[chunk] = shared_ + (S::kRingRow + read_.plus(own + chunk) * 16) * kRowBytes + by_columns<D>();
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
#pragma unroll
      for (int chunk = 0; chunk < kChunks + G - 1; ++chunk) {
        uint32_t y[4];
        load_matrices(y, rows[chunk] + k * 32);
#pragma unroll
        for (int g = 0; g < G; ++g) {
          const int part = chunk - (G - 1 - g);  // constant once unrolled
          if (part < 0 || part >= kChunks) continue;
          multiply_add(s_[g][to + 2 * part], position_[g][k], y[0], y[1]);
          multiply_add(s_[g][to + 2 * part + 1], position_[g][k], y[2], y[3]);
        }
      }
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < 2 * kChunks; ++n) shift_.order(s_[g][to + n]);
  }

  __device__ void step(int key, int stage, int part) {
    // The warp's queries see none of these keys, nor any later ones.
    if (key > head_.memory() + query_ + 16 * G - 1) return;
    band_of_columns<kStep / 16>(1, 2);
    read_.advance(kStep / 16);
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
    const uint32_t row = static_cast<uint32_t>(stage * kKeys + part * kStep);
    multiply<G, D, kColumns>(content_, shared_ + (S::kKeyRow + row) * kRowBytes + by_columns<D>(), s_);
    if (key + kStep > key_end_ || !head_.all_see(query_, 16 * G, key, kStep)) hide(key);
    softmax();
    if constexpr (S::kDropout) drop(key);
    uint32_t weights[G][kStep / 16][4];
    pack_operand(s_, weights);
    accumulate<G, D>(weights, shared_ + (S::kValueRow + row) * kRowBytes + by_rows<D>(), out_);
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s_[g][n][e] = carried[g][n][e];
  }

  __device__ void hide(int key) {
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Range seen = head_.keys_of(query_ + 16 * g + row_of(2 * half));
#pragma unroll
        for (int n = 0; n < kColumns; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e)
            if (!seen.has(key + column_of(n, e))) s_[g][n][e] = -INFINITY;
      }
  }

  /// Turns scores into exponentials relative to the row's running maximum.
  __device__ void softmax() {
    const float scale = a_.scale * kLog2E;
    float correction[G][2];
    bool grown = false;
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int e = 2 * half;
        float most = largest_[g][half];
#pragma unroll
        for (int n = 0; n < kColumns; ++n) most = fmaxf(most, fmaxf(s_[g][n][e], s_[g][n][e + 1]));
        most = fmaxf(most, __shfl_xor_sync(kWarp, most, 1));
        most = fmaxf(most, __shfl_xor_sync(kWarp, most, 2));
        // The maximum of a row without a visible key yet is -infinity; subtracting 0 keeps its scores hidden.
        const float shift = most == -INFINITY ? 0.0f : most * scale;
        correction[g][half] = exp2_fast(largest_[g][half] * scale - shift);
        grown |= most > largest_[g][half];
        largest_[g][half] = most;
        sum_[g][half] *= correction[g][half];
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
          s_[g][n][e] = exp2_fast(fmaf(s_[g][n][e], scale, -shift));
          s_[g][n][e + 1] = exp2_fast(fmaf(s_[g][n][e + 1], scale, -shift));
          sum_[g][half] += s_[g][n][e] + s_[g][n][e + 1];
        }
      }
    if (__any_sync(kWarp, grown)) correct(correction);
  }

  __device__ void correct(const float (&correction)[G][2]) {
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) out_[g][n][e] *= correction[g][e / 2];
  }

  __device__ void drop(int key) {
    const DropoutFactors dropout(k_.dropout);
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float factor[1];
          dropout.get(head_.element(query_ + 16 * g + row_of(e), key + column_of(n, e)), factor);
          s_[g][n][e] *= factor[0];
        }
  }

  __device__ void finish() {
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& sum = sum_[g][half];
        sum += __shfl_xor_sync(kWarp, sum, 1);
        sum += __shfl_xor_sync(kWarp, sum, 2);
        const bool blind = !(sum > 0);
        const float inverse = blind ? 0.0f : 1.0f / sum;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          out_[g][n][2 * half] *= inverse;
          out_[g][n][2 * half + 1] *= inverse;
        }
        const int query = query_ + 16 * g + row_of(2 * half);
        if (lane_id() % 4 == 0 && query < k_.queries)
          static_cast<float*>(k_.lse)[head_.lse_row(query)] =
              blind ? kBlind : (largest_[g][half] * a_.scale + log2f(sum) * kLn2);
      }
    store_rows<G, D>(out_, 1.0f, head_.width(), a_.wide, [&](int r) {
      Bf16* row = static_cast<Bf16*>(k_.out) + head_.head * k_.head_dim +
                  (head_.example * k_.queries + query_ + r) * k_.out_stride;
      return query_ + r < k_.queries ? row : nullptr;
    });
  }

  const RelativeForward& a_;
  const RelativeAttention& k_;
  const RelativeHead<Bf16> head_;
  Bf16* const memory_;
  const uint32_t shared_;
  const int begin_, query_;
  int key_begin_, key_end_, copied_ = 0;
  RingIndex<S::kRing> write_;
  RingIndex<S::kRing / 16> read_;
  const ColumnShift shift_;
  uint32_t content_[G][D / 16][4], position_[G][D / 16][4];
  float s_[G][kColumns + 2][4];  // the band from fragment 2 on, with 16 columns of the last step before it
  float out_[G][D / 8][4], largest_[G][2], sum_[G][2];
};

template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    relative_forward_tensor_kernel(const __grid_constant__ RelativeForward a) {
  extern __shared__ __align__(128) unsigned char memory[];
  ForwardBlock<S>(a, reinterpret_cast<Bf16*>(memory)).run();
}

template <typename S>
void launch_forward(const Launch& launch, const RelativeForward& a) {
  allow_shared(relative_forward_tensor_kernel<S>, S::kBytes);
  relative_forward_tensor_kernel<S><<<grid_of(ceil_div(a.k.queries, S::kQueries), a.k.heads, a.k.batch),
                                      S::kThreads, S::kBytes, stream_of(launch)>>>(a);
  check_launch("relative_forward_tensor_kernel");
}

}  // namespace

void relative_forward_tensor(const Launch& launch, const RelativeForward& a) {
  with_width(a.k, [&]<int D>() {
    if (a.k.dropout.threshold > 0) return launch_forward<ForwardShape<D, true>>(launch, a);
    launch_forward<ForwardShape<D, false>>(launch, a);
  });
}

}  // namespace perceiver::kernels::cuda
