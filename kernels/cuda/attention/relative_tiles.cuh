// Building blocks of relative attention on the tensor cores (bf16, mma.sync m16n8k16, f32 sums).
//
// A warp owns G groups of 16 rows, so that an operand fragment read from shared memory serves G products:
// with 16 rows alone, reading fragments takes longer than multiplying them. Fragments are c[4] of 16 x 8:
// thread (g, q) = (lane / 4, lane % 4) has rows g and g + 8, columns 2q and 2q + 1.
//
// Diagonals. Positional scores of 16 rows by 8 N columns are a band, 16 columns (or rows) larger, from which
// row r or column c takes its part by a shift of its own. The shift stays in registers, exact in f32: the
// source lane picks one of two fragments and one shuffle moves the element. No band lies in shared memory.
//
//  - Rows are queries, columns keys (forward, d_q). Columns x of the band are distances in falling order, x =
//    c + 15 - r. The last 16 columns of a step are the first 16 of the next, so each distance is multiplied
//    once, and rows of distances lie in a ring in shared memory, to which a tile of keys adds as many rows.
//  - Rows are keys (or distances), columns queries (d_k and d_v, d_positions), so that weights and gradients
//    are register operands of the products over queries. Rows lie in falling order, y = r + c.
//
// Tiles in shared memory have rows of D elements and 16 bytes, which puts the 8 rows of an ldmatrix in
// different banks.
#pragma once

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/attention/relative_attention.cuh"

namespace perceiver::kernels::cuda {

using Bf16 = __nv_bfloat16;
constexpr unsigned kWarp = 0xFFFFFFFFu;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.693147180559945f;

/// A tile's rows of D elements.
template <int kD>
struct TileRows {
  static constexpr int kPitch = kD + 8, kBytes = 2 * kPitch;
};

__device__ inline int lane_id() {
  return static_cast<int>(threadIdx.x) % 32;
}
__device__ inline int warp_id() {
  return static_cast<int>(threadIdx.x) / 32;
}
/// Row and column of element e of a fragment.
__device__ inline int row_of(int e) {
  return lane_id() / 4 + e / 2 * 8;
}
__device__ inline int column_of(int n, int e) {
  return n * 8 + lane_id() % 4 * 2 + e % 2;
}

/// This lane's byte offset for ldmatrix over 16 x 16 elements. `by_rows`: operand A as it lies; with the
/// transposing load operand B = [k, n] as it lies. `by_columns`: operand B = [n, k] as it lies.
template <int D>
__device__ inline uint32_t by_rows() {
  return static_cast<uint32_t>(lane_id() % 16 * TileRows<D>::kBytes + lane_id() / 16 * 16);
}
template <int D>
__device__ inline uint32_t by_columns() {
  return static_cast<uint32_t>((lane_id() % 8 + lane_id() / 16 * 8) * TileRows<D>::kBytes +
                               lane_id() / 8 % 2 * 16);
}

template <int kCount>
__device__ inline void clear(float (&c)[kCount][4]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) c[n][e] = 0;
}

template <int G, int kCount>
__device__ inline void clear(float (&c)[G][kCount][4]) {
#pragma unroll
  for (int g = 0; g < G; ++g) clear(c[g]);
}

/// Operand A [16 G, D] from `tile`, an address with by_rows.
template <int G, int D>
__device__ inline void load_operand(uint32_t tile, uint32_t (&a)[G][D / 16][4]) {
#pragma unroll
  for (int g = 0; g < G; ++g)
#pragma unroll
    for (int k = 0; k < D / 16; ++k) load_matrices(a[g][k], tile + g * (16 * TileRows<D>::kBytes) + k * 32);
}

/// c[g] += a[g] · B^T, B [8 kCount, D] at `b`, an address with by_columns.
template <int G, int D, int kCount, int kTiles>
__device__ inline void multiply(const uint32_t (&a)[G][D / 16][4], uint32_t b, float (&c)[G][kTiles][4]) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k)
#pragma unroll
    for (int n = 0; n < kCount; n += 2) {
      uint32_t y[4];
      load_matrices(y, b + n * (8 * TileRows<D>::kBytes) + k * 32);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        multiply_add(c[g][n], a[g][k], y[0], y[1]);
        multiply_add(c[g][n + 1], a[g][k], y[2], y[3]);
      }
    }
}

/// Likewise with A [16 G, D] at `a`, an address with by_rows.
template <int G, int D, int kCount, int kTiles>
__device__ inline void multiply(uint32_t a, uint32_t b, float (&c)[G][kTiles][4]) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    uint32_t x[G][4];
#pragma unroll
    for (int g = 0; g < G; ++g) load_matrices(x[g], a + g * (16 * TileRows<D>::kBytes) + k * 32);
#pragma unroll
    for (int n = 0; n < kCount; n += 2) {
      uint32_t y[4];
      load_matrices(y, b + n * (8 * TileRows<D>::kBytes) + k * 32);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        multiply_add(c[g][n], x[g], y[0], y[1]);
        multiply_add(c[g][n + 1], x[g], y[2], y[3]);
      }
    }
  }
}

/// sum [16 G, D] += a [16 G, 16 kSteps] · B, B [16 kSteps, D] at `b`, an address with by_rows.
template <int G, int D, int kSteps>
__device__ inline void accumulate(const uint32_t (&a)[G][kSteps][4], uint32_t b, float (&sum)[G][D / 8][4]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k)
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t y[4];
      load_matrices_transposed(y, b + k * (16 * TileRows<D>::kBytes) + n * 16);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        multiply_add(sum[g][n], a[g][k], y[0], y[1]);
        multiply_add(sum[g][n + 1], a[g][k], y[2], y[3]);
      }
    }
}

/// The first 2 kSteps fragments of c, rounded, as operand A.
template <int G, int kSteps, int kTiles>
__device__ inline void pack_operand(const float (&c)[G][kTiles][4], uint32_t (&a)[G][kSteps][4]) {
#pragma unroll
  for (int g = 0; g < G; ++g)
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &c[g][2 * k + i / 2][i % 2 * 2];
        a[g][k][i] = pack(pair[0], pair[1]);
      }
}

/// Moves between a band [16, 8 N + 16] and a tile [16, 8 N]: tile column c of row r is band column c + 15 -
/// r. Of that shift 8 is known (rows 0 to 7) or 0 (others), 2 * lanes_ + odd_ depends on the lane.
class ColumnShift {
 public:
  __device__ ColumnShift() {
    const int lane = lane_id(), q = lane % 4, rest = 7 - lane / 4, lanes = rest / 2, quad = lane - q;
    odd_ = rest % 2 != 0;
    for (int e = 0; e < 2; ++e) {
      const int by = lanes + (e == 1 && odd_ ? 1 : 0);
      from_[e] = quad + (q + by) % 4;
      next_[e] = q < by;
    }
    before_ = quad + (q + 3) % 4;
    left_ = quad + (q + 4 - lanes) % 4;
    wraps_ = q + lanes >= 4;
    last_ = q == 3;
  }

  /// Call it once on each fragment of the band: puts the element that goes to an even column first.
  __device__ void order(float (&band)[4]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float x = band[2 * half], y = band[2 * half + 1];
      band[2 * half] = odd_ ? y : x;
      band[2 * half + 1] = odd_ ? x : y;
    }
  }

  /// Fragment n of the tile from fragments n, n + 1, n + 2 of the ordered band; it may replace the first.
  __device__ void take(const float (&b0)[4], const float (&b1)[4], const float (&b2)[4],
                       float (&tile)[4]) const {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float low = e < 2 ? b1[e] : b0[e], high = e < 2 ? b2[e] : b1[e];
      tile[e] = __shfl_sync(kWarp, next_[e % 2] ? high : low, from_[e % 2]);
    }
  }

  /// What `put` has still to deliver.
  struct Pending {
    uint32_t pair[2] = {0, 0}, odd[2] = {0, 0}, upper = 0;
  };

  /// The way back, in pairs of bf16: takes fragment n of a tile (rows 0 to 7, then 8 to 15), gives fragment n
  /// of the band, for n = 0, 1, ...; two more calls with zeros give the last 16 columns.
  __device__ void put(uint32_t (&pairs)[2], Pending& pending) const {
    uint32_t moved[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t pair = pairs[half];
      const uint32_t before = __shfl_sync(kWarp, last_ ? pending.pair[half] : pair, before_);
      const uint32_t shifted = odd_ ? __funnelshift_r(before, pair, 16) : pair;
      moved[half] = __shfl_sync(kWarp, wraps_ ? pending.odd[half] : shifted, left_);
      pending.pair[half] = pair;
      pending.odd[half] = shifted;
    }
    pairs[0] = pending.upper;
    pairs[1] = moved[1];
    pending.upper = moved[0];
  }

 private:
  bool odd_, next_[2], wraps_, last_;
  int from_[2], before_, left_;
};

/// From a band whose column c is shifted along rows: tile row r of column c is band row r + c. Fragments are
/// of columns 8n to 8n + 7; a band's fragments start at row 8n, or 8 (n - 1) for odd n.
class RowShift {
 public:
  __device__ RowShift() {
    const int lane = lane_id(), q = lane % 4, row = lane / 4;
    for (int e = 0; e < 2; ++e) {
      const int by = 2 * q + e;
      from_[e] = (row + by) % 8 * 4 + q;
      next_[e] = row < by;
    }
  }

  template <int G, int kTiles>
  __device__ void take(int n, const float (&band)[G + 1][4], float (&tile)[G][kTiles][4]) const {
#pragma unroll
    for (int unit = 0; unit < 2 * G; ++unit)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int low = unit + n % 2, high = low + 1;
        const float x = next_[e] ? band[high / 2][high % 2 * 2 + e] : band[low / 2][low % 2 * 2 + e];
        tile[unit / 2][n][unit % 2 * 2 + e] = __shfl_sync(kWarp, x, from_[e]);
      }
  }

 private:
  bool next_[2];
  int from_[2];
};

/// tile [16 G, kQueries] = the diagonals of a band, rows · B^T: `chunk(i)` is the address, with by_rows, of
/// the band's rows 16 i to 16 i + 15, B [kQueries, D] at `b`, an address with by_columns.
template <int G, int D, int kQueries, typename Chunk>
__device__ inline void take_diagonals(const Chunk& chunk, uint32_t b, const RowShift& shift,
                                      float (&tile)[G][kQueries / 8][4]) {
  constexpr int kChunks = kQueries / 16 + G;
  float band[kQueries / 8][G + 1][4];
  clear(band);
  uint32_t rows[kChunks];
#pragma unroll
  for (int i = 0; i < kChunks; ++i) rows[i] = chunk(i);
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    uint32_t x[kChunks][4];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) load_matrices(x[i], rows[i] + k * 32);
#pragma unroll
    for (int n = 0; n < kQueries / 8; n += 2) {
      uint32_t y[4];
      load_matrices(y, b + n * (8 * TileRows<D>::kBytes) + k * 32);
#pragma unroll
      for (int i = 0; i < G + 1; ++i) {
        multiply_add(band[n][i], x[n / 2 + i], y[0], y[1]);
        multiply_add(band[n + 1][i], x[n / 2 + i], y[2], y[3]);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kQueries / 8; ++n) shift.take<G>(n, band[n], tile);
}

/// Two elements, zeros where they are none; `wide`: they are aligned, and both there or none.
__device__ inline float2 load_pair(const Bf16* from, bool wide, bool first, bool second) {
  if (wide) return unpack(first ? *reinterpret_cast<const uint32_t*>(from) : 0);
  return {first ? to_float(from[0]) : 0.0f, second ? to_float(from[1]) : 0.0f};
}

/// Rows of a matrix: row r lies at from + r * stride; where not 0 <= index + r < count there are zeros.
struct RowSpan {
  const Bf16* from;
  int64_t stride;
  int index, count;
};

/// How the threads of a block divide rows of D elements: a thread copies 16 bytes of every kPass-th row.
template <int D, int kThreads>
struct CopyShape {
  static constexpr int kChunks = D / 8, kPass = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0);
  __device__ static int row() { return static_cast<int>(threadIdx.x) / kChunks; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % kChunks * 8; }
};

/// 8 elements of a row of `width` elements from `column` on.
__device__ inline void copy_elements(Bf16* to, const Bf16* from, bool valid, int column, int width) {
#pragma unroll 1
  for (int c = 0; c < 8; ++c) to[c] = valid && column + c < width ? from[c] : from_float<Bf16>(0.0f);
}

/// Starts copying kRows rows of up to D elements to shared memory; rows r to r + kPass - 1, for multiples r
/// of kPass, to those of `tile` from slot(r) on. All threads of the block call it. `wide`: rows are whole
/// pieces of 16 bytes, aligned to as much.
template <int D, int kThreads, int kRows, typename Slot>
__device__ inline void copy_rows(Bf16* tile, int width, bool wide, const RowSpan& rows, const Slot& slot) {
  using Copy = CopyShape<D, kThreads>;
  constexpr int kPass = Copy::kPass, kPitch = TileRows<D>::kPitch;
  static_assert(kRows % kPass == 0);
  const int column = Copy::column(), index = rows.index + Copy::row();
  const unsigned count = column < width ? static_cast<unsigned>(rows.count) : 0;
  const Bf16* from = rows.from + Copy::row() * rows.stride + column;
  Bf16* to = tile + Copy::row() * kPitch + column;
  if (wide) {
    const uint32_t address = shared_address(to);
#pragma unroll
    for (int r = 0; r < kRows; r += kPass, from += kPass * rows.stride)
      copy_async(address + static_cast<uint32_t>(slot(r) * TileRows<D>::kBytes), from,
                 static_cast<unsigned>(index + r) < count);
    return;
  }
#pragma unroll 1
  for (int r = 0; r < kRows; r += kPass, from += kPass * rows.stride)
    copy_elements(to + slot(r) * kPitch, from, static_cast<unsigned>(index + r) < count, column, width);
}

template <int D, int kThreads, int kRows>
__device__ inline void copy_rows(Bf16* tile, int width, bool wide, const RowSpan& rows) {
  copy_rows<D, kThreads, kRows>(tile, width, wide, rows, [](int r) { return r; });
}

/// Likewise rows of the table of positions, of the distances `from`, from + step, ..., each taken into the
/// table's range.
template <int D, int kThreads, int kRows, typename Slot>
__device__ inline void copy_positions(Bf16* tile, const RelativeHead<Bf16>& head, bool wide, int from,
                                      int step, const Slot& slot) {
  using Copy = CopyShape<D, kThreads>;
  const int last = from + step * (kRows - 1);
  if (min(from, last) >= 0 && max(from, last) < head.k.distances)
    return copy_rows<D, kThreads, kRows>(tile, head.width(), wide,
                                         {head.position(from), step * head.row_width(), 0, kRows}, slot);
  const int column = Copy::column();
#pragma unroll 1
  for (int r = 0; r < kRows; r += Copy::kPass) {
    const Bf16* row = head.position(from + step * (r + Copy::row())) + column;
    Bf16* to = tile + (slot(r) + Copy::row()) * TileRows<D>::kPitch + column;
    if (wide) {
      copy_async(shared_address(to), row, column < head.width());
    } else {
      copy_elements(to, row, true, column, head.width());
    }
  }
}

/// Position in a ring of kSize, which moves forward by less than kSize at a time.
template <int kSize>
struct RingIndex {
  int at = 0;
  __device__ int plus(int n) const { return at + n >= kSize ? at + n - kSize : at + n; }
  __device__ void advance(int n) { at = plus(n); }
};

/// Stores rows of fragments, times `factor`; to(row) is the address of a row, null: none.
template <int G, int D, typename Target>
__device__ inline void store_rows(const float (&c)[G][D / 8][4], float factor, int width, bool wide,
                                  const Target& to) {
#pragma unroll
  for (int g = 0; g < G; ++g)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Bf16* row = to(16 * g + row_of(2 * half));
      if (row == nullptr) continue;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        const float x = c[g][n][2 * half] * factor, y = c[g][n][2 * half + 1] * factor;
        const int column = column_of(n, 0);
        if (wide) {
          if (column < width) *reinterpret_cast<uint32_t*>(row + column) = pack(x, y);
          continue;
        }
        if (column < width) row[column] = from_float<Bf16>(x);
        if (column + 1 < width) row[column + 1] = from_float<Bf16>(y);
      }
    }
}

/// Sum over rows r of sums[r] * row(r), for a gradient of biases, in a fixed order. `sums` [G][2] are those
/// of the rows of this thread, still to be added over the four threads of a row. `memory`: kRows + kThreads
/// floats in shared memory. All threads of the block call it.
template <int G, int D, int kThreads, typename Row>
__device__ inline void weigh_rows(float (&sums)[G][2], int width, float* memory, float factor, float* target,
                                  const Row& row) {
  constexpr int kRows = kThreads / 2 * G, kParts = kThreads / D;
  __syncthreads();
#pragma unroll
  for (int g = 0; g < G; ++g)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& sum = sums[g][half];
      sum += __shfl_xor_sync(kWarp, sum, 1);
      sum += __shfl_xor_sync(kWarp, sum, 2);
      if (lane_id() % 4 == 0) memory[(warp_id() * G + g) * 16 + row_of(2 * half)] = sum;
    }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x) % D, part = static_cast<int>(threadIdx.x) / D;
  float sum = 0;
  for (int r = part; r < kRows && column < width; r += kParts) sum += memory[r] * to_float(row(r)[column]);
  memory[kRows + threadIdx.x] = sum;
  __syncthreads();
  if (part > 0 || column >= width) return;
  for (int other = 1; other < kParts; ++other) sum += memory[kRows + other * D + column];
  target[column] = sum * factor;
}

/// Calls body.template operator()<D>() with the width to which a head is padded.
template <typename Body>
void with_width(const RelativeAttention& k, const Body& body) {
  if (k.head_dim <= 32) return body.template operator()<32>();
  if (k.head_dim <= 64) return body.template operator()<64>();
  body.template operator()<128>();
}

}  // namespace perceiver::kernels::cuda
