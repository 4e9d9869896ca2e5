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
#include "kernels/cuda/attention/relative_blocks.cuh"

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
      : a_(a), k_(a.k), rows_(a.k, a.wide, memory) {}

  __device__ void run() {
    load_queries();
    clear(out_);
    for (int g = 0; g < G; ++g)
      for (int half = 0; half < 2; ++half) {
        largest_[g][half] = -INFINITY;
        sum_[g][half] = 0;
      }
    rows_.copy_first();
    int stage = 0;
    for (int key = rows_.key_begin; key < rows_.key_end; key += kKeys, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();  // This tile has arrived; all warps are done with the previous one.
      rows_.copy_next(key + kKeys, stage ^ 1);
      if (key == rows_.key_begin) rows_.start_band(position_operand());
#pragma unroll 1
      for (int part = 0; part < kKeys / kStep; ++part) step(key + part * kStep, stage, part);
    }
    finish();
  }

 private:
  /// q + u and q + v to shared memory, then to registers.
  __device__ void load_queries() {
    constexpr int kPairs = D / 2;
    const auto* u = static_cast<const Bf16*>(k_.content_bias) + rows_.head.head * k_.head_dim;
    const auto* v = static_cast<const Bf16*>(k_.position_bias) + rows_.head.head * k_.head_dim;
    Bf16 *content = rows_.memory, *position = content + S::kQueries * kPitch;
    const int column = static_cast<int>(threadIdx.x) % kPairs * 2;
    const bool first = column < k_.head_dim, second = column + 1 < k_.head_dim;
    const float2 bias_u{first ? to_float(u[column]) : 0.0f, second ? to_float(u[column + 1]) : 0.0f};
    const float2 bias_v{first ? to_float(v[column]) : 0.0f, second ? to_float(v[column + 1]) : 0.0f};
#pragma unroll 8
    for (int row = static_cast<int>(threadIdx.x) / kPairs; row < S::kQueries; row += kThreads / kPairs) {
      const bool inside = row < rows_.count;
      const Bf16* from = rows_.head.queries(k_.q, k_.q_stride, rows_.begin + row) + column;
      const float2 q = load_pair(from, a_.wide, inside && first, inside && second);
      const uint32_t sum_u = inside ? pack(q.x + bias_u.x, q.y + bias_u.y) : 0;
      const uint32_t sum_v = inside ? pack(q.x + bias_v.x, q.y + bias_v.y) : 0;
      *reinterpret_cast<uint32_t*>(content + row * kPitch + column) = sum_u;
      *reinterpret_cast<uint32_t*>(position + row * kPitch + column) = sum_v;
    }
    __syncthreads();
    const uint32_t own = rows_.shared + warp_id() * 16 * G * kRowBytes + by_rows<D>();
    load_operand<G, D>(own, content_);
    load_operand<G, D>(own + S::kQueries * kRowBytes, position_);
    __syncthreads();
  }

  __device__ auto position_operand() const {
    return [this](int k, uint32_t(&x)[G][4]) {
#pragma unroll
      for (int g = 0; g < G; ++g)
#pragma unroll
        for (int i = 0; i < 4; ++i) x[g][i] = position_[g][k][i];
    };
  }

  __device__ void step(int key, int stage, int part) {
    if (rows_.done_at(key)) return;
    rows_.next_scores(position_operand());
    const uint32_t row = static_cast<uint32_t>(stage * kKeys + part * kStep);
    multiply<G, D, kColumns>(content_, rows_.shared + (S::kKeyRow + row) * kRowBytes + by_columns<D>(),
                             rows_.s);
    if (!rows_.all_see(key)) hide(key);
    softmax();
    if constexpr (S::kDropout) drop(key);
    uint32_t weights[G][kStep / 16][4];
    pack_operand(rows_.s, weights);
    accumulate<G, D>(weights, rows_.shared + (S::kValueRow + row) * kRowBytes + by_rows<D>(), out_);
    rows_.advance();
  }

  __device__ void hide(int key) {
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Range seen = rows_.head.keys_of(rows_.query + 16 * g + row_of(2 * half));
#pragma unroll
        for (int n = 0; n < kColumns; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e)
            if (!seen.has(key + column_of(n, e))) rows_.s[g][n][e] = -INFINITY;
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
        for (int n = 0; n < kColumns; ++n) most = fmaxf(most, fmaxf(rows_.s[g][n][e], rows_.s[g][n][e + 1]));
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
          rows_.s[g][n][e] = exp2_fast(fmaf(rows_.s[g][n][e], scale, -shift));
          rows_.s[g][n][e + 1] = exp2_fast(fmaf(rows_.s[g][n][e + 1], scale, -shift));
          sum_[g][half] += rows_.s[g][n][e] + rows_.s[g][n][e + 1];
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
          dropout.get(rows_.head.element(rows_.query + 16 * g + row_of(e), key + column_of(n, e)), factor);
          rows_.s[g][n][e] *= factor[0];
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
        const int query = rows_.query + 16 * g + row_of(2 * half);
        if (lane_id() % 4 == 0 && query < k_.queries)
          static_cast<float*>(k_.lse)[rows_.head.lse_row(query)] =
              blind ? kBlind : (largest_[g][half] * a_.scale + log2f(sum) * kLn2);
      }
    store_rows<G, D>(out_, 1.0f, rows_.head.width(), a_.wide, [&](int r) {
      Bf16* row = static_cast<Bf16*>(k_.out) + rows_.head.head * k_.head_dim +
                  (rows_.head.example * k_.queries + rows_.query + r) * k_.out_stride;
      return rows_.query + r < k_.queries ? row : nullptr;
    });
  }

  const RelativeForward& a_;
  const RelativeAttention& k_;
  QueryRows<S> rows_;
  uint32_t content_[G][D / 16][4], position_[G][D / 16][4];
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
