// Products of the fused decode step for up to 4 slots: the weights that a warp holds in registers, by the
// inputs of its columns, in the arithmetic of the weights' type. A row of a tile is one output; a lane holds
// 8 neighbouring weights of each block of 32 columns, four lanes to a row.
//
// - bf16: by bf16, sums in f32. Rows 0 to 7 of A are the outputs with the lower 4 of a lane's weights, 8 to
//   15 with the upper 4; two columns of B are the inputs of these halves, for each slot.
// - e4m3: as f16, one instruction a pair, by f16 inputs scaled by the warp's largest; exact, except for
//   inputs below 2^-30 of it. Otherwise like bf16. So is i8 with 2 to 4 slots, two and a half instructions a
//   pair.
// - i8, one slot: by integers of two digits of 8 bits, in two columns of B, sums in s32. A power of two
//   scales a warp's inputs: bf16 numbers down to 1/64 of the largest are exact, smaller ones are rounded to
//   bf16's step at 1/64. Rows 8 to 15 of A are a second tile or, if there is none, other columns, whose
//   digits are two further columns of B.
//
// Inputs lie in shared memory, 256 bytes per warp, slot and tile of columns.
#pragma once

#include "kernels/cuda/decode/narrow_weights.cuh"
#include "kernels/cuda/decode/phase.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kHeldStages = 4;                                   // of weights, in registers
inline constexpr int kHeldBlocks = kTileColumns / 32 / kConsumerWarps;  // of 32 columns, of a warp and tile
static_assert(kHeldStages <= kPassTiles);
inline constexpr int kHeldInputBytes = kInputBytes / kHeldStages;  // of a warp and tile

#ifdef PERCEIVER_DECODE_SM90

/// A pass computes kHeldStages tiles of outputs, or one that has several tiles of columns.
struct Passes {
  int column_tiles, tiles;
  __device__ explicit Passes(const Product& p)
      : column_tiles((p.columns + kTileColumns - 1) / kTileColumns),
        tiles(column_tiles == 1 ? kHeldStages : 1) {}
};

/// c [16, 8] += a [16, 16] · b [16, 8], of f16.
__device__ inline void multiply_add_f16(float (&c)[4], const uint4& a, uint2 b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}

/// How a warp's inputs are scaled, by a power of two that the largest of them sets.
struct InputScale {
  float in, out;  // multiply inputs; the sums of products

  /// `packed`: pairs of bf16, this lane's. The largest input of the warp will be in [2^kExponent,
  /// 2^(kExponent + 1)). With a NaN or an infinity among the inputs the sums are NaN.
  template <int kExponent, int kCount>
  __device__ static InputScale of(const uint2 (&packed)[kCount]) {
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      most = __vmaxu2(most, __vmaxu2(packed[i].x & 0x7FFF7FFFu, packed[i].y & 0x7FFF7FFFu));
    most = __reduce_max_sync(0xffffffffu, max(most & 0xFFFFu, most >> 16));
    constexpr uint32_t kSmallest = 64u << 23, kInfinite = 255u << 23;  // keeps both factors normal
    const uint32_t exponent = max((most << 16) & kInfinite, kSmallest);
    InputScale scale;
    scale.in = __uint_as_float(((254u + kExponent) << 23) - exponent);
    scale.out = __uint_as_float(exponent == kInfinite ? 0x7FFFFFFFu : exponent - (kExponent << 23));
    return scale;
  }
};

/// All but i8 with one slot.
template <DType kWeights, int kSlots>
class HeldProducts {
  static_assert(kSlots <= 4);  // of 8 columns

 public:
  using Weights = uint4[kHeldBlocks];  // of a tile, as pairs of bf16 or f16

  /// `inputs`: this warp's, for kHeldStages tiles of columns.
  __device__ explicit HeldProducts(unsigned char* inputs)
      : inputs_(inputs), lane_(static_cast<int>(threadIdx.x) % 32) {}

  /// `row`: the address of this lane's weights of column 0. Weights past `columns` are 0; kWhole: there are
  /// none.
  template <bool kWhole>
  __device__ static __forceinline__ void load(uint32_t row, int warp, int columns, Weights& w) {
    load_blocks<kWeights, kWhole>(row, warp, kConsumerWarps, columns, w, read_block);
  }

  /// Stores 4 neighbouring inputs of each tile of columns of a slot, as pairs of bf16.
  template <int kTiles>
  __device__ __forceinline__ void store_inputs(int slot, uint2 (&packed)[kTiles]) {
    if constexpr (is_narrow(kWeights)) make_halves(slot, packed);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      // Of every 4 words, 0 and 2 are for one column of B and 1 and 3 for the other, and are stored together.
      uint32_t* to =
          reinterpret_cast<uint32_t*>(inputs_ + slot * kInputPitch + t * kHeldInputBytes + lane_ / 2 * 16) +
          lane_ % 2;
      to[0] = packed[t].x, to[2] = packed[t].y;
    }
  }

  /// Adds each tile's products to its own sum, or, `by_columns`, all of them to the first sum, each tile with
  /// its own columns. The sums of output lane / 4 are in lanes 0, 4, 8, ..., of the second slot in lanes 1,
  /// 5, and so on.
  __device__ __forceinline__ void multiply(int tiles, bool by_columns, const Weights (&w)[kHeldStages],
                                           float (&sums)[kHeldStages]) const {
    float c[kHeldStages][4] = {};
    if (by_columns) {
      uint2 x[kHeldStages][kHeldBlocks];
#pragma unroll
      for (int i = 0; i < kHeldStages; ++i) read_inputs(i, x[i]);
      multiply_all(
          w, [&](int i, int b) { return x[i][b]; }, c);
      sums[0] += scaled((total(c[0]) + total(c[1])) + (total(c[2]) + total(c[3])));
      return;
    }
    uint2 x[kHeldBlocks];
    read_inputs(0, x);
    if (tiles == 1) {
#pragma unroll
      for (int b = 0; b < kHeldBlocks; ++b) multiply_block(w[0][b], x[b], c[b % 2]);
      sums[0] += scaled(total(c[0]) + total(c[1]));
      return;
    }
    multiply_all(
        w, [&](int, int b) { return x[b]; }, c);
#pragma unroll
    for (int i = 0; i < kHeldStages; ++i) sums[i] += scaled(total(c[i]));
  }

 private:
  __device__ static __forceinline__ uint4 read_block(uint32_t from) {
    if constexpr (kWeights == DType::bf16) return load_shared(from);
    const uint2 codes = load_shared_pair(from);
    if constexpr (kWeights == DType::i8) {
      const uint2 low = halves_of_int8(codes.x), high = halves_of_int8(codes.y);
      return {low.x, low.y, high.x, high.y};
    }
    return {half_pair(codes.x), half_pair(codes.x >> 16), half_pair(codes.y), half_pair(codes.y >> 16)};
  }

  /// bf16 to f16; the largest stay below 2^15.
  template <int kTiles>
  __device__ __forceinline__ void make_halves(int slot, uint2 (&packed)[kTiles]) {
    const InputScale scale = InputScale::of<14>(packed);
    if (kSlots == 1 || lane_ % 4 == slot) scale_ = scale.out;
    const auto convert = [&](uint32_t pair) {
      const float2 x = unpack(pair);
      uint32_t halves;
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(halves) : "f"(x.y * scale.in), "f"(x.x * scale.in));
      return halves;
    };
#pragma unroll
    for (int t = 0; t < kTiles; ++t) packed[t] = {convert(packed[t].x), convert(packed[t].y)};
  }

  template <typename Inputs>
  __device__ static __forceinline__ void multiply_all(const Weights (&w)[kHeldStages], Inputs&& inputs,
                                                      float (&c)[kHeldStages][4]) {
#pragma unroll
    for (int b = 0; b < kHeldBlocks; ++b)
#pragma unroll
      for (int i = 0; i < kHeldStages; ++i) multiply_block(w[i][b], inputs(i, b), c[i]);
  }
  __device__ static void multiply_block(const uint4& w, uint2 x, float (&c)[4]) {
    if constexpr (kWeights == DType::bf16) {
      multiply_add(c, {w.x, w.y, w.z, w.w}, x.x, x.y);
    } else {
      multiply_add_f16(c, w, x);
    }
  }
  __device__ static float total(const float (&c)[4]) {
    return c[0] + c[3];
  }
  __device__ float scaled(float sum) const {
    return kWeights == DType::bf16 ? sum : sum * scale_;
  }

  /// The inputs of one tile; the unused columns of B are copies.
  __device__ void read_inputs(int tile, uint2 (&x)[kHeldBlocks]) const {
    const uint32_t from = shared_address(inputs_) +
                          static_cast<uint32_t>(lane_ / 8 % kSlots * kInputPitch + tile * kHeldInputBytes +
                                                lane_ % 4 * 16 + lane_ / 4 % 2 * 8);
#pragma unroll
    for (int b = 0; b < kHeldBlocks; ++b) x[b] = load_shared_pair(from + static_cast<uint32_t>(b) * 64);
  }

  unsigned char* inputs_;
  int lane_;
  float scale_ = 1;  // of this lane's sums; eight bits
};

template <>
class HeldProducts<DType::i8, 1> {
  static_assert(kHeldStages == 4 && kHeldBlocks == 4);

 public:
  using Weights = uint2[kHeldBlocks];

  __device__ explicit HeldProducts(unsigned char* inputs)
      : inputs_(inputs), lane_(static_cast<int>(threadIdx.x) % 32) {}

  template <bool kWhole>
  __device__ static __forceinline__ void load(uint32_t row, int warp, int columns, Weights& w) {
    load_blocks<DType::i8, kWhole>(row, warp, kConsumerWarps, columns, w, load_shared_pair);
  }

  /// As two digits: x = (256 * upper + lower) * scale_, [block, digit, 32] bytes of a tile.
  template <int kTiles>
  __device__ __forceinline__ void store_inputs(int, const uint2 (&packed)[kTiles]) {
    const InputScale scale = InputScale::of<kExponent>(packed);
    scale_ = scale.out;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const float2 low = unpack(packed[t].x), high = unpack(packed[t].y);
      const uint32_t x[4] = {whole(low.x * scale.in), whole(low.y * scale.in), whole(high.x * scale.in),
                             whole(high.y * scale.in)};
      uint32_t* to = reinterpret_cast<uint32_t*>(inputs_ + t * kHeldInputBytes) + lane_ / 8 * 16 + lane_ % 8;
      to[0] = bytes<1>(x[0] + 128, x[1] + 128, x[2] + 128, x[3] + 128);
      to[8] = bytes<0>(x[0], x[1], x[2], x[3]);
    }
  }

  __device__ __forceinline__ void multiply(int tiles, bool by_columns, const Weights (&w)[kHeldStages],
                                           float (&sums)[kHeldStages]) const {
    int c[2][4] = {};
    if (by_columns) {
#pragma unroll
      for (int b = 0; b < kHeldBlocks; ++b)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          multiply_two(w[2 * i][b], w[2 * i + 1][b], read_inputs(2 * i, b, kHeldInputBytes), c[i]);
      sums[0] += scaled(total(c));
      return;
    }
    if (tiles == 1) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        multiply_two(w[0][2 * i], w[0][2 * i + 1], read_inputs(0, 2 * i, kBlockBytes), c[i]);
      sums[0] += scaled(total(c));
      return;
    }
#pragma unroll
    for (int b = 0; b < kHeldBlocks; ++b) {
      const uint2 x = read_inputs(0, b, 0);
#pragma unroll
      for (int i = 0; i < 2; ++i) multiply_two(w[2 * i][b], w[2 * i + 1][b], x, c[i]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
      sums[2 * i] += scaled(whole(c[i][0], c[i][1])), sums[2 * i + 1] += scaled(whole(c[i][2], c[i][3]));
  }

 private:
  static constexpr int kBlockBytes = 64;
  // Inputs stay below 2^14, so that their upper digits are at most 64 and the sum of 512 products of whole
  // inputs at most 2^30.
  static constexpr int kExponent = 13;

  /// x, rounded, in the lower bits.
  __device__ static uint32_t whole(float x) {
    return __float_as_uint(x + 12582912.0f);  // 1.5 * 2^23
  }
  __device__ static int whole(int upper, int lower) {
    return upper * 256 + lower;
  }
  template <int kByte>
  __device__ static uint32_t bytes(uint32_t x0, uint32_t x1, uint32_t x2, uint32_t x3) {
    constexpr uint32_t kPair = kByte | (4 + kByte) << 4;
    return __byte_perm(__byte_perm(x0, x1, kPair), __byte_perm(x2, x3, kPair), 0x5410);
  }
  __device__ float scaled(int sum) const {
    return static_cast<float>(sum) * scale_;
  }

  /// c [16, 8] += the weights of a block, of two tiles or of two sets of columns, by digits.
  __device__ static void multiply_two(uint2 low, uint2 high, uint2 x, int (&c)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(low.x), "r"(high.x), "r"(low.y), "r"(high.y), "r"(x.x), "r"(x.y));
  }
  /// Where the lower rows have one set of columns, in lanes 0, 4, ..., and the upper rows another, in lanes
  /// 1, 5, ...
  __device__ int total(const int (&c)[2][4]) const {
    const bool upper = lane_ % 2 != 0;
    const int own =
        upper ? whole(c[0][2] + c[1][2], c[0][3] + c[1][3]) : whole(c[0][0] + c[1][0], c[0][1] + c[1][1]);
    return own + __shfl_xor_sync(0xffffffffu, own, 1);
  }

  /// The digits of a block: upper and lower in columns 0 and 1 of B, those `next` bytes on in columns 2 and
  /// 3; the others are copies.
  __device__ uint2 read_inputs(int tile, int block, int next) const {
    const int column = lane_ / 4, digit = column % 2, second = column / 2 % 2;
    return load_shared_pair(shared_address(inputs_) +
                            static_cast<uint32_t>(tile * kHeldInputBytes + block * kBlockBytes +
                                                  second * next + digit * 32 + lane_ % 4 * 8));
  }

  unsigned char* inputs_;
  int lane_;
  float scale_ = 1;
};

#endif
}  // namespace perceiver::kernels::cuda
