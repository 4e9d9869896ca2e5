// Rotation of heads (Rotary) in the registers of the threads that multiply (hopper_product.cuh).
//
// In wgmma's accumulators a pair of channels belongs to one thread, which has the same pairs of all heads in
// two rows of its slab: an angle is read once for all heads of a tile. Those of the first kHeld groups of 4
// bands are read while the tile is multiplied, and the positions a tile before that, so that nobody waits
// for them; angles of more bands come when they are needed. The finishers could do it too, but share the
// memory of L1 with the operands of wgmma: there it took longer than the tile.
#pragma once

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/gemm/hopper_product.cuh"
#include "kernels/cuda/support/rotate.cuh"

namespace perceiver::kernels::cuda::hopper {

/// As HopperRotation; `rotated`: columns of a part's rotated heads, of 32, 64 or 128 each.
struct TileRotationArguments {
  int columns, part_columns, rotated, head_dim, bands;
  const int* positions;
  const float *cosine, *sine;
};

/// For ProductBlock::run().
class TileRotation {
 public:
  static constexpr bool kChanges = true, kFactors = false;

  __device__ TileRotation(const TileRotationArguments& arguments, int m) : args_(arguments), m_(m) {}

  /// Before the first tile.
  __device__ void begin(const Tiles& tiles, int slab) {
    if (tiles.done()) return;
    const Tile at = tiles.tile();
    column_ = at.column;
    read_positions(at, slab);
  }

  /// Once a tile's first products are under way.
  __device__ void prepare(const Tiles& tiles, int slab) {
    find_heads(column_);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sign_[r] = position_[r] < 0 ? -1.0f : 1.0f;
      place_[r] = static_cast<int64_t>(abs(position_[r])) * args_.bands + lane() % 4;
    }
    if (heads_ != 0)
#pragma unroll
      for (int group = 0; group < kHeld; ++group) read(group, cosine_[group], sine_[group]);
    Tiles next = tiles;
    next.advance();
    begin(next, slab);
  }

  /// Multiplies the sums of a slab by `factor` (kScaled), adds `bias` (may be null), rounds and rotates them;
  /// false: nothing is to be rotated, and nothing was done.
  template <bool kScaled>
  __device__ bool change(float (&c)[128], float factor, const float* bias) {
    if (heads_ == 0) return false;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const float2 b =
          bias == nullptr ? float2{} : *reinterpret_cast<const float2*>(bias + n * 8 + lane() % 4 * 2);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        c[n * 4 + r * 2] = scaled_sum<kScaled>(c[n * 4 + r * 2], factor, b.x);
        c[n * 4 + r * 2 + 1] = scaled_sum<kScaled>(c[n * 4 + r * 2 + 1], factor, b.y);
      }
    }
    switch (args_.head_dim) {
      case 32:
        rotate_heads<32>(c);
        break;
      case 64:
        rotate_heads<64>(c);
        break;
      default:
        rotate_heads<128>(c);
    }
    return true;
  }

 private:
  static constexpr int kHeld = 4;

  __device__ void read_positions(const Tile& at, int slab) {
    const int first = at.row + slab * kSlabRows + static_cast<int>(threadIdx.x) / 32 % 4 * 16 +
                      static_cast<int>(lane()) / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) position_[r] = first + r * 8 < m_ ? args_.positions[first + r * 8] : 0;
  }

  /// Bit h: whether the tile's head h is rotated.
  __device__ void find_heads(int column) {
    heads_ = 0;
    int within = column % args_.part_columns;
    for (int h = 0; h * args_.head_dim < kColumns; ++h) {
      if (column + h * args_.head_dim < args_.columns && within < args_.rotated) heads_ |= 1u << h;
      within += args_.head_dim;
      if (within >= args_.part_columns) within -= args_.part_columns;
    }
  }

  /// The angles of the thread's band of a group, in both rows. Volatile: they are to be under way while the
  /// tile is multiplied.
  __device__ void read(int group, float (&cosine)[2], float (&sine)[2]) const {
    if (!has(group)) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      cosine[r] = load_now(args_.cosine + place_[r] + group * 4);
      sine[r] = load_now(args_.sine + place_[r] + group * 4);
    }
  }
  __device__ bool has(int group) const {
    return group * 4 + static_cast<int>(lane()) % 4 < args_.bands;
  }
  __device__ static float load_now(const float* from) {
    float x;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(from));
    return x;
  }

  /// kAll: all heads, without a branch for each, so that they overlap.
  template <int kHeadDim, bool kAll>
  __device__ void rotate(float (&c)[128]) const {
#pragma unroll
    for (int group = 0; group < kHeadDim / 8; ++group) {
      if (group * 4 >= args_.bands) break;
      float cosine[2] = {}, sine[2] = {};
      if (group >= kHeld) read(group, cosine, sine);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (group < kHeld) cosine[r] = cosine_[group % kHeld][r], sine[r] = sine_[group % kHeld][r];
        sine[r] *= sign_[r];
      }
      if (!has(group)) continue;
#pragma unroll
      for (int h = 0; h < kColumns / kHeadDim; ++h) {
        if (!kAll && (heads_ >> h & 1) == 0) continue;
        float* x = c + (h * (kHeadDim / 8) + group) * 4;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          // Two at once: conversions of one number are far slower.
          const float2 sums = unpack(pack(x[r * 2], x[r * 2 + 1]));
          float even = sums.x, odd = sums.y;
          rotate_pair(even, odd, cosine[r], sine[r]);
          x[r * 2] = even;
          x[r * 2 + 1] = odd;
        }
      }
    }
  }

  template <int kHeadDim>
  __device__ void rotate_heads(float (&c)[128]) const {
    if (heads_ == (1u << kColumns / kHeadDim) - 1) return rotate<kHeadDim, true>(c);
    rotate<kHeadDim, false>(c);
  }

  const TileRotationArguments& args_;
  const int m_;
  int position_[2] = {};
  int64_t place_[2] = {};
  float sign_[2] = {}, cosine_[kHeld][2] = {}, sine_[kHeld][2] = {};
  int column_ = 0;  // of the next tile, until it is prepared
  uint32_t heads_ = 0;
};

}  // namespace perceiver::kernels::cuda::hopper
