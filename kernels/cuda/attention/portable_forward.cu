// Attention forward on the tensor cores of compute capability 8.0 and later, after FlashAttention-2 (Dao
// 2023).
//
// A block of 4 warps owns 128 queries of one head, 32 to a warp, and iterates over tiles of keys from the
// last visible one down, so that the tiles that need masking come first. Per tile S = Q K^T (mma.sync
// m16n8k16, bf16 in, f32 out), online softmax in base 2, and O += P V with P reused from S's registers.
// Loading V (cp.async) overlaps S, loading the next K overlaps the softmax and O += P V; two blocks per SM
// hide the remaining latency. Tiles start at the example's first key, so only limits, ends and key masks need
// masking.
//
// Where the query tiles are too few to fill the GPU, the keys are split over several blocks (split-KV); their
// normalised partial results go to the workspace in f32, and a second kernel combines them in a fixed order.
//
// Head widths are padded with zeros to 32, 64, 96 or 128 (D). Shared memory: (128 + 2 * keys) rows of D bf16,
// 64 KiB at D = 128 with 64 keys, 48 KiB at D = 64 with 128 keys. Registers per thread: O takes D, S takes
// `keys`, of 255.
#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/attention/mma.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kQueries = 128;
constexpr int kThreads = 128;
constexpr float kLn2 = 0.693147180559945f;

struct ForwardArguments {
  Attention k;
  float scale_log2;  // of the softmax, times log2(e)
  int splits;
  float* partial_out;   // [splits, batch, heads, queries, D]
  float* partial_lse2;  // [splits, batch, heads, queries], base 2, -inf where no key is visible
};

/// Tiles of kKeys keys, kBlocks blocks per SM.
template <int kD, int kKeysPerTile, int kBlocksPerProcessor>
struct Shape {
  static constexpr int D = kD, kKeys = kKeysPerTile, kBlocks = kBlocksPerProcessor;
  static constexpr int kSharedBytes = (kQueries + 2 * kKeys) * D * 2;
};

template <typename S>
class ForwardBlock {
  static constexpr int D = S::D, kKeys = S::kKeys;
  static constexpr int kKeyColumns = kKeys / 8, kColumns = D / 8;
  static constexpr int kTileBytes = kKeys * D * 2;

 public:
  __device__ ForwardBlock(const ForwardArguments& a, unsigned char* memory)
      : a_(a),
        memory_(memory),
        q_tile_(shared_address(memory)),
        k_tile_(q_tile_ + kQueries * D * 2),
        v_tile_(k_tile_ + kTileBytes),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void run() {
    const Attention& k = a_.k;
    const int tiles = static_cast<int>(gridDim.x) / a_.splits;
    // Late queries see more keys, so they go first.
    tile_ = tiles - 1 - static_cast<int>(blockIdx.x) / a_.splits;
    split_ = static_cast<int>(blockIdx.x) % a_.splits;
    head_ = blockIdx.y;
    example_ = blockIdx.z;
    first_query_ = tile_ * kQueries;
    query_count_ = min(kQueries, static_cast<int>(k.queries) - first_query_);
    const int32_t* limits = k.limit + example_ * k.queries + first_query_;
    key_end_ = min(limits[query_count_ - 1], static_cast<int>(k.keys));
    first_key_ = k.first == nullptr ? 0 : max(k.first[example_], 0);
    const int smallest = limits[0];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      largest_[r] = -INFINITY;
      sum_[r] = 0;
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) out_[m][n][e] = 0;

    const int key_tiles = max(key_end_ - first_key_ + kKeys - 1, 0) / kKeys;
    const int begin = static_cast<int>(static_cast<int64_t>(key_tiles) * split_ / a_.splits);
    const int end = static_cast<int>(static_cast<int64_t>(key_tiles) * (split_ + 1) / a_.splits);
    // Tiles below this one are within every query's limit.
    const int clear = max(smallest - first_key_, 0) / kKeys;
    if (begin < end) {
      copy_tile<kQueries, D, kThreads>(q_tile_,
                                       static_cast<const __nv_bfloat16*>(k.q) +
                                           (example_ * k.queries + first_query_) * k.q_stride +
                                           head_ * k.head_dim,
                                       k.q_stride, query_count_, static_cast<int>(k.head_dim) / 8);
      copy_keys(k_tile_, k.k, end - 1);
      copy_commit();
    }
    for (int t = end - 1; t >= begin; --t) {
      if (t >= clear || !all_seen(t)) {
        step<true>(t, t > begin);
      } else {
        step<false>(t, t > begin);
      }
    }
    finish();
  }

 private:
  /// Row r (0..3) of this thread within the query tile.
  __device__ int row_of(int r) const {
    return warp_ * 32 + r / 2 * 16 + r % 2 * 8 + lane_ / 4;
  }

  __device__ void copy_keys(uint32_t tile, const void* source, int t) const {
    const Attention& k = a_.k;
    const int key = first_key_ + t * kKeys;
    copy_tile<kKeys, D, kThreads>(tile,
                                  static_cast<const __nv_bfloat16*>(source) +
                                      (example_ * k.keys + key) * k.kv_stride + head_ * k.head_dim,
                                  k.kv_stride, static_cast<int>(k.keys) - key,
                                  static_cast<int>(k.head_dim) / 8);
  }

  template <bool kMasked>
  __device__ void step(int t, bool more) {
    float s[2][kKeyColumns][4];
    copy_wait<0>();
    __syncthreads();  // K has arrived; all warps are done with the previous V.
    copy_keys(v_tile_, a_.k.v, t);
    copy_commit();
    uint32_t seen[kKeys / 32];
    if constexpr (kMasked) read_key_mask(t, seen);
    scores(s);
    copy_wait<0>();
    __syncthreads();  // V has arrived; all warps are done with K.
    if (more) {
      copy_keys(k_tile_, a_.k.k, t - 1);
      copy_commit();
    }
    if constexpr (kMasked) hide(t, seen, s);
    softmax<kMasked>(s);
    add_values(s);
  }

  __device__ void scores(float (&s)[2][kKeyColumns][4]) const {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < kKeyColumns; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[m][n][e] = 0;
    const LaneAddress<D, Cover::rows> q(q_tile_ + warp_ * 32 * D * 2);
    const LaneAddress<D, Cover::columns> keys(k_tile_);
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t a[2][4];
      load_matrices(a[0], q.at(0, step));
      load_matrices(a[1], q.at(16, step));
#pragma unroll
      for (int n = 0; n < kKeyColumns; n += 2) {
        uint32_t b[4];
        load_matrices(b, keys.at(n * 8, step));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply_add(s[m][n], a[m], b[0], b[1]);
          multiply_add(s[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  /// Whether the key mask passes every key of a tile that lies within the keys; uniform over the block.
  __device__ bool all_seen(int t) const {
    const Attention& k = a_.k;
    if (k.key_mask == nullptr) return true;
    const uint8_t* mask = k.key_mask + example_ * k.keys + first_key_ + t * kKeys + lane_;
    bool seen = true;
#pragma unroll
    for (int w = 0; w < kKeys / 32; ++w) seen &= mask[w * 32] != 0;
    return __all_sync(0xFFFFFFFFu, seen);
  }

  /// One bit per key of the tile.
  __device__ void read_key_mask(int t, uint32_t (&seen)[kKeys / 32]) const {
    const Attention& k = a_.k;
#pragma unroll
    for (int w = 0; w < kKeys / 32; ++w) {
      if (k.key_mask == nullptr) {
        seen[w] = 0xFFFFFFFFu;
        continue;
      }
      const int key = first_key_ + t * kKeys + w * 32 + lane_;
      seen[w] = __ballot_sync(0xFFFFFFFFu, key < k.keys && k.key_mask[example_ * k.keys + key] != 0);
    }
  }

  __device__ void hide(int t, const uint32_t (&seen)[kKeys / 32], float (&s)[2][kKeyColumns][4]) const {
    const int tile_key = first_key_ + t * kKeys;
    uint32_t all = 0xFFFFFFFFu;
#pragma unroll
    for (int w = 0; w < kKeys / 32; ++w) all &= seen[w];
    const int32_t* limits = a_.k.limit + example_ * a_.k.queries + first_query_;
    // Uniform over the warp: limits rise with the rows.
    const bool within = tile_key + kKeys <= min(limits[min(warp_ * 32, query_count_ - 1)], key_end_);
    const bool has_own =
        a_.k.self_visible && tile_key < first_query_ + kQueries && first_query_ < tile_key + kKeys;
    if (within && !has_own) {
      if (all == 0xFFFFFFFFu) return;
#pragma unroll
      for (int n = 0; n < kKeyColumns; ++n) {
        const uint32_t bits = seen[n / 4] >> (lane_ % 4 * 2);
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (!(bits & (1u << ((n * 8 + e) % 32))))
#pragma unroll
            for (int r = 0; r < 4; ++r) s[r / 2][n][r % 2 * 2 + e] = -INFINITY;
      }
      return;
    }
    // Relative to this thread's first key, so columns are compared with constants.
    const int thread_key = tile_key + lane_ % 4 * 2;
    int limit[4], own[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = row_of(r);
      limit[r] = (row < query_count_ ? min(limits[row], key_end_) : 0) - thread_key;
      own[r] = a_.k.self_visible ? first_query_ + row - thread_key : -1;
    }
#pragma unroll
    for (int n = 0; n < kKeyColumns; ++n) {
      const uint32_t bits = seen[n / 4] >> (lane_ % 4 * 2);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = n * 8 + e;
        const bool bit = bits & (1u << (column % 32));
#pragma unroll
        for (int r = 0; r < 4; ++r)
          if (column >= limit[r] || !(bit || column == own[r])) s[r / 2][n][r % 2 * 2 + e] = -INFINITY;
      }
    }
  }

  /// Turns scores into exponentials relative to the row's running maximum.
  template <bool kMasked>
  __device__ void softmax(float (&s)[2][kKeyColumns][4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int m = r / 2, e = r % 2 * 2;
      float largest = largest_[r];
#pragma unroll
      for (int n = 0; n < kKeyColumns; ++n) largest = fmaxf(largest, fmaxf(s[m][n][e], s[m][n][e + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 2));
      // The maximum of a row without a visible key yet is -infinity; subtracting 0 keeps its scores masked.
      const float shift = kMasked && largest == -INFINITY ? 0.0f : largest * a_.scale_log2;
      const float correction = exp2_fast(largest_[r] * a_.scale_log2 - shift);
      largest_[r] = largest;
      sum_[r] *= correction;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        out_[m][n][e] *= correction;
        out_[m][n][e + 1] *= correction;
      }
#pragma unroll
      for (int n = 0; n < kKeyColumns; ++n) {
        s[m][n][e] = exp2_fast(fmaf(s[m][n][e], a_.scale_log2, -shift));
        s[m][n][e + 1] = exp2_fast(fmaf(s[m][n][e + 1], a_.scale_log2, -shift));
        sum_[r] += s[m][n][e] + s[m][n][e + 1];
      }
    }
  }

  __device__ void add_values(const float (&p)[2][kKeyColumns][4]) {
    const LaneAddress<D, Cover::rows> values(v_tile_);
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = &p[m][2 * step + i / 2][i % 2 * 2];
          a[m][i] = pack(pair[0], pair[1]);
        }
#pragma unroll
      for (int n = 0; n < kColumns; n += 2) {
        uint32_t b[4];
        load_matrices_transposed(b, values.at(step * 16, n / 2));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply_add(out_[m][n], a[m], b[0], b[1]);
          multiply_add(out_[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  __device__ void finish() {
    const Attention& k = a_.k;
    const int64_t head_row = (example_ * k.heads + head_) * k.queries + first_query_;
    const int64_t split_row = split_ * k.batch * k.heads * k.queries + head_row;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int m = r / 2, e = r % 2 * 2, row = row_of(r);
      sum_[r] += __shfl_xor_sync(0xFFFFFFFFu, sum_[r], 1);
      sum_[r] += __shfl_xor_sync(0xFFFFFFFFu, sum_[r], 2);
      const bool blind = !(sum_[r] > 0);
      const float inverse = blind ? 0.0f : 1.0f / sum_[r];
      const float lse2 = blind ? INFINITY : largest_[r] * a_.scale_log2 + log2f(sum_[r]);
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        out_[m][n][e] *= inverse;
        out_[m][n][e + 1] *= inverse;
      }
      if (row >= query_count_) continue;
      if (a_.splits == 1) {
        if (lane_ % 4 == 0) static_cast<float*>(k.lse)[head_row + row] = lse2 * kLn2;
        continue;
      }
      if (lane_ % 4 == 0) a_.partial_lse2[split_row + row] = blind ? -INFINITY : lse2;
      float* target = a_.partial_out + (split_row + row) * D + lane_ % 4 * 2;
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
        *reinterpret_cast<float2*>(target + n * 8) = {out_[m][n][e], out_[m][n][e + 1]};
    }
    if (a_.splits == 1) store_rows();
  }

  /// Staged through shared memory for 16-byte stores; each warp uses the rows of its own queries.
  __device__ void store_rows() {
    using Tile = SharedTile<D>;
    const Attention& k = a_.k;
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
        *reinterpret_cast<uint32_t*>(memory_ + Tile::offset(row_of(r), n) + lane_ % 4 * 4) =
            pack(out_[r / 2][n][r % 2 * 2], out_[r / 2][n][r % 2 * 2 + 1]);
    __syncwarp();
    __nv_bfloat16* out = static_cast<__nv_bfloat16*>(k.out) +
                         (example_ * k.queries + first_query_) * k.out_stride + head_ * k.head_dim;
#pragma unroll
    for (int pass = 0; pass < Tile::kChunks; ++pass) {
      const int i = pass * 32 + lane_;
      const int row = warp_ * 32 + i / Tile::kChunks, chunk = i % Tile::kChunks;
      if (row < query_count_ && chunk * 8 < k.head_dim)
        *reinterpret_cast<uint4*>(out + row * k.out_stride + chunk * 8) =
            *reinterpret_cast<const uint4*>(memory_ + Tile::offset(row, chunk));
    }
  }

  const ForwardArguments& a_;
  unsigned char* memory_;
  const uint32_t q_tile_, k_tile_, v_tile_;
  const int warp_, lane_;
  int tile_, split_, first_query_, query_count_, first_key_, key_end_;
  int64_t example_, head_;
  float largest_[4], sum_[4];
  float out_[2][kColumns][4];
};

template <typename S>
__global__ void __launch_bounds__(kThreads, S::kBlocks)
    attention_forward_kernel(const __grid_constant__ ForwardArguments a) {
  extern __shared__ __align__(1024) unsigned char memory[];
  ForwardBlock<S>(a, memory).run();
}

/// out = sum over splits of 2^(lse2_s - lse2) out_s; a warp per query and head.
__global__ void __launch_bounds__(kThreads)
    attention_combine_kernel(const __grid_constant__ ForwardArguments a, int padded_width) {
  const Attention& k = a.k;
  const int64_t rows = k.batch * k.heads * k.queries;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (row >= rows) return;
  float largest = -INFINITY, sum = 0;
  for (int s = 0; s < a.splits; ++s) largest = fmaxf(largest, a.partial_lse2[s * rows + row]);
  const bool blind = largest == -INFINITY;
  for (int s = 0; s < a.splits && !blind; ++s) sum += exp2f(a.partial_lse2[s * rows + row] - largest);
  const float lse2 = largest + log2f(sum);
  if (lane == 0) static_cast<float*>(k.lse)[row] = blind ? INFINITY : lse2 * kLn2;
  const int64_t query = row % k.queries, head = row / k.queries % k.heads,
                example = row / k.queries / k.heads;
  __nv_bfloat16* out =
      static_cast<__nv_bfloat16*>(k.out) + (example * k.queries + query) * k.out_stride + head * k.head_dim;
  for (int64_t c = lane; c < k.head_dim; c += 32) {
    float value = 0;
    for (int s = 0; s < a.splits && !blind; ++s)
      value +=
          exp2f(a.partial_lse2[s * rows + row] - lse2) * a.partial_out[(s * rows + row) * padded_width + c];
    out[c] = __float2bfloat16_rn(value);
  }
}

/// The number of splits with the shortest estimated time, counted in waves of blocks.
int choose_splits(int64_t blocks, int64_t slots, int64_t key_tiles, int64_t most) {
  most = std::min<int64_t>({most, key_tiles / 2, 64});
  int best = 1;
  double best_time = 1e300;
  for (int s = 1; s <= most; ++s) {
    // Each further split costs its launch and its share of combining.
    const double time = static_cast<double>(ceil_div(blocks * s, slots)) / s * (1 + 0.02 * (s - 1));
    if (time >= best_time) continue;
    best = s;
    best_time = time;
  }
  return best;
}

template <typename S>
void launch_forward(const Launch& launch, const Attention& k) {
  const int64_t tiles = ceil_div(k.queries, kQueries), rows = k.batch * k.heads * k.queries;
  ForwardArguments a{};
  a.k = k;
  a.scale_log2 = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(k.head_dim)));
  a.splits = choose_splits(tiles * k.heads * k.batch, int64_t{S::kBlocks} * launch.sm_count,
                           ceil_div(k.keys, S::kKeys), launch.workspace_bytes / (rows * (S::D + 1) * 4));
  a.partial_out = static_cast<float*>(launch.workspace);
  a.partial_lse2 = a.partial_out + a.splits * rows * S::D;
  check(cudaFuncSetAttribute(attention_forward_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             S::kSharedBytes),
        "attention_forward_kernel");
  const dim3 grid(static_cast<unsigned>(tiles * a.splits), static_cast<unsigned>(k.heads),
                  static_cast<unsigned>(k.batch));
  attention_forward_kernel<S><<<grid, kThreads, S::kSharedBytes, stream_of(launch)>>>(a);
  check_launch("attention_forward_kernel");
  if (a.splits == 1) return;
  attention_combine_kernel<<<static_cast<unsigned>(ceil_div(rows, kThreads / 32)), kThreads, 0,
                             stream_of(launch)>>>(a, S::D);
  check_launch("attention_combine_kernel");
}

}  // namespace

void attention_portable(const Launch& launch, const Attention& k) {
  if (k.head_dim <= 32) return launch_forward<Shape<32, 128, 2>>(launch, k);
  if (k.head_dim <= 64) return launch_forward<Shape<64, 128, 2>>(launch, k);
  if (k.head_dim <= 96) return launch_forward<Shape<96, 64, 2>>(launch, k);
  launch_forward<Shape<128, 64, 2>>(launch, k);
}

}  // namespace perceiver::kernels::cuda
