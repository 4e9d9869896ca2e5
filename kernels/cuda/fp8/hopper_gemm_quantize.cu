// Products of 8-bit operands on Hopper whose results are quantised in the epilogue: hopper_product.cuh
// multiplies, and the finishers do what quantize.cu does in a pass of its own.
//
// A finishing warp takes units of 64 x 64 of the result, a swizzled tile of a slab, every third one. Of a
// unit it takes 16 rows at a time: a lane 8 columns of 4 successive rows. It writes these in 8 bytes a row,
// and packs the 4 rows of a column into a word that goes where the 16 rows were in shared memory: [64
// columns][16 bytes], their order permuted so that neither access has bank conflicts. At the end of a unit a
// column's 64 rows leave in 4 accesses of neighbouring lanes. What is read beside the product (the
// derivative's argument) comes through shared memory, 4 KiB a warp, two times 16 rows ahead, into the next
// unit.
#include "kernels/cuda/fp8/codes.cuh"
#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/cuda/gemm/hopper_product.cuh"
#include "kernels/cuda/hopper/device.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/support/activation.cuh"
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/fp8.h"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kUnits = 2 * kSlabTiles;  // of a tile of the result
constexpr int kWidth = 8, kLaneRows = 4;
constexpr int kPassRows = 16, kPasses = kSlabRows / kPassRows;
constexpr int kAhead = 2;  // passes
constexpr uint32_t kPassBytes = kPassRows * kRowBytes, kFinisherBytes = kFinisherWarps * kAhead * kPassBytes;

struct QuantizeArguments : ProductArguments {
  Activation activation;
  __nv_bfloat16* product;
  const __nv_bfloat16* argument;  // of the derivative
  const float* scale;
  float* largest;
  uint8_t *out, *transposed;
  float* column_sums;  // [units of rows, n]
};

/// A finishing warp's units.
class Units {
 public:
  __device__ Units(const ProductArguments& a, int first) : tiles_(a), unit_(first) {}

  __device__ bool done() const { return tiles_.done(); }
  __device__ void advance() {
    unit_ += kFinisherWarps;
    if (unit_ < kUnits) return;
    unit_ -= kUnits;
    tiles_.advance();
    phase_ ^= 1;
  }
  __device__ int slab() const { return unit_ / kSlabTiles; }
  __device__ int slab_tile() const { return unit_ % kSlabTiles; }
  __device__ uint32_t phase() const { return phase_; }
  /// The first row and column of the unit.
  __device__ Tile at() const {
    const Tile tile = tiles_.tile();
    return {tile.row + slab() * kSlabRows, tile.column + slab_tile() * kTileColumns};
  }
  /// This unit of the block's next tile.
  __device__ Units in_next_tile() const {
    Units next = *this;
    next.tiles_.advance();
    return next;
  }

 private:
  Tiles tiles_;
  int unit_;
  uint32_t phase_ = 0;
};

/// kDerivative: A and the result are e5m2.
template <bool kDerivative>
class QuantizeBlock : public ProductBlock<Fp8Operands<kDerivative>> {
  static constexpr __nv_fp8_interpretation_t kFormat = kDerivative ? __NV_E5M2 : __NV_E4M3;
  using Packed = Pack<__nv_bfloat16, kWidth>;

  /// What a lane finds in a unit.
  struct Found {
    Codes codes;
    float sums[kWidth] = {};
  };

 public:
  __device__ QuantizeBlock(const QuantizeArguments& arguments, unsigned char* memory)
      : ProductBlock<Fp8Operands<kDerivative>>(arguments, memory),
        args_(arguments),
        column_(lane() % 8 * kWidth),
        first_row_(lane() / 8 * kLaneRows) {}

  __device__ void finish() const {
    with_activation(args_.activation, [&]<Activation kActivation>() { finish_units<kActivation>(); });
  }

 private:
  template <Activation kActivation>
  __device__ void finish_units() const {
    const float scale = *args_.scale;
    float largest = 0;
    Units units(args_, this->finisher_warp());
    for (int unit = this->finisher_warp(); unit < kUnits; unit += kFinisherWarps)
      hand_over(Units(args_, unit));
    for (int pass = 0; pass < kAhead; ++pass) read_ahead(place_of(units), pass);
    while (!units.done()) {
      Units next = units;
      next.advance();
      finish_unit<kActivation>(units, place_of(next), scale, largest);
      hand_over(units.in_next_tile());
      units = next;
    }
    if constexpr (kDerivative) copy_wait<0>();
    largest = warp_max(largest);
    if (lane() == 0) raise(args_.largest, largest);
  }

  /// Where a lane is in a unit.
  struct Place {
    int row, column;  // its first ones
    int rows;         // of the matrix, from the unit's first one on, or 0 where the lane has no columns

    __device__ bool inside(int pass) const { return pass * kPassRows < rows; }
  };

  __device__ Place place_of(const Units& units) const {
    if (units.done()) return {0, 0, 0};
    const Tile at = units.at();
    const int column = at.column + column_;
    return {at.row + first_row_, column, column < args_.n ? args_.m - at.row : 0};
  }
  __device__ int64_t element(const Place& place, int pass, int row) const {
    return static_cast<int64_t>(place.row + pass * kPassRows + row) * args_.n + place.column;
  }

  /// Gives a unit's part of a slab to the multiplying warpgroup, with the bias of its next tile.
  __device__ void hand_over(const Units& next) const {
    if (args_.bias != nullptr && !next.done()) {
      const int column = next.at().column;
      float* const bias = this->bias(next.slab()) + next.slab_tile() * kTileColumns;
      for (int i = lane(); i < kTileColumns; i += 32)
        bias[i] = column + i < args_.n ? to_float(args_.bias[column + i]) : 0.0f;
    }
    mbarrier_arrive_warp(this->slab_empty(next.slab()));
  }

  /// A lane's own rows, which it reads itself.
  __device__ unsigned char* ahead(int pass) const {
    return this->finisher_memory() + (this->finisher_warp() * kAhead + pass % kAhead) * kPassBytes +
           lane() * 16;
  }
  __device__ void read_ahead(const Place& place, int pass) const {
    if constexpr (!kDerivative) return;
    const bool inside = place.inside(pass);
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r)
      copy_async(shared_address(ahead(pass) + r * 32 * 16),
                 args_.argument + (inside ? element(place, pass, r) : 0), inside);
    copy_commit();
  }

  template <Activation kActivation>
  __device__ void finish_unit(const Units& units, const Place& next, float scale, float& largest) const {
    const Place place = place_of(units);
    unsigned char* const tile = this->slab_tile(units.slab(), units.slab_tile());
    Found found;
    mbarrier_wait(this->slab_full(units.slab()), units.phase());
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      finish_rows<kActivation>(tile, place, pass, scale, found, largest);
      read_ahead(pass < kPasses - kAhead ? place : next, (pass + kAhead) % kPasses);
      __syncwarp();  // The rows have been read.
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        *reinterpret_cast<uint32_t*>(column_bytes(tile, pass, column_ + i) + first_row_) =
            transposed_word(found.codes, i);
    }
    __syncwarp();
    if (args_.transposed != nullptr) write_transposed(tile, place);
    if constexpr (kDerivative)
      if (args_.column_sums != nullptr) write_sums(place, found.sums);
  }

  /// Activates or differentiates a lane's rows of a pass, and writes them.
  template <Activation kActivation>
  __device__ void finish_rows(const unsigned char* tile, const Place& place, int pass, float scale,
                              Found& found, float& largest) const {
    if constexpr (kDerivative) copy_wait<kAhead - 1>();
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      found.codes[r][0] = found.codes[r][1] = 0;
      if (!place.inside(pass)) continue;
      const uint32_t row = static_cast<uint32_t>(pass * kPassRows + first_row_ + r);
      const Packed rounded = *reinterpret_cast<const Packed*>(tile + swizzled_offset(row, column_ / kWidth));
      float y[kWidth];
      unpack(rounded, y);
      if constexpr (kDerivative) {
        float argument[kWidth];
        cuda::load(reinterpret_cast<const __nv_bfloat16*>(ahead(pass) + r * 32 * 16), argument);
        differentiate_argument(kActivation, argument, y);
      } else {
        activate(kActivation, y);
      }
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        if constexpr (kDerivative) found.sums[j] += y[j];
        largest = fmaxf(largest, fabsf(y[j]));
      }
      found.codes[r][0] = encode<kFormat>(y, scale);
      found.codes[r][1] = encode<kFormat>(y + 4, scale);
      const int64_t at = element(place, pass, r);
      if (args_.product != nullptr) *reinterpret_cast<Packed*>(args_.product + at) = rounded;
      if (args_.out != nullptr)
        *reinterpret_cast<uint2*>(args_.out + at) = {found.codes[r][0], found.codes[r][1]};
    }
  }

  /// Where the 16 rows of a column of a unit are. Of the lanes that write together, one in each vector of 8
  /// columns, and of those that read together, two columns of all passes, each 8 have other banks.
  __device__ static unsigned char* column_bytes(unsigned char* tile, int pass, int column) {
    const int vector = column / kWidth;
    const int slot = vector * kWidth + ((column % kWidth) ^ vector ^ (2 * pass));
    return tile + pass * kPassBytes + slot * kPassRows;
  }

  __device__ void write_transposed(unsigned char* tile, const Place& place) const {
    const int pass = lane() % kPasses;
    const int row = place.row - first_row_ + pass * kPassRows, first = place.column - column_;
#pragma unroll
    for (int column = lane() / kPasses; column < kTileColumns; column += 32 / kPasses) {
      if (row >= args_.m || first + column >= args_.n) continue;
      *reinterpret_cast<uint4*>(args_.transposed + static_cast<int64_t>(first + column) * args_.m + row) =
          *reinterpret_cast<const uint4*>(column_bytes(tile, pass, column));
    }
  }

  /// The sums of a unit's columns, over the four lanes that have each.
  __device__ void write_sums(const Place& place, float (&sums)[kWidth]) const {
#pragma unroll
    for (float& sum : sums) {
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 8);
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 16);
    }
    if (first_row_ == 0 && place.inside(0))
      cuda::store(args_.column_sums + static_cast<int64_t>(place.row / kSlabRows) * args_.n + place.column,
                  sums);
  }

  const QuantizeArguments& args_;
  const int column_, first_row_;  // of this lane within a unit, of each pass
};

template <bool kDerivative>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(kThreads, 1)
    gemm_quantize_kernel(const __grid_constant__ QuantizeArguments arguments) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  QuantizeBlock<kDerivative> block(arguments, memory);
  block.template run<kSlabTiles>([&] { block.finish(); });
#endif
}

/// Parts that the column sums of m rows are left in.
int64_t sum_parts_of(int64_t m) {
  return ceil_div(m, kSlabRows);
}

}  // namespace

bool fp8_gemm_quantizes(const Launch& launch, int64_t m, int64_t n) {
  return hopper::built() && hopper::on_hopper() && hopper_gemm_fills(launch, m, n) && m <= INT32_MAX &&
         sum_parts_of(m) <= parts_that_fit(launch, n);
}

void fp8_gemm_quantize(const Launch& launch, const Fp8GemmQuantize& k) {
  const Fp8Gemm& g = k.product;
  const Fp8Quantize& q = k.quantize;
  const bool derivative = q.x != nullptr;
  const Fp8Format format = derivative ? Fp8Format::e5m2 : Fp8Format::e4m3;
  require(g.a_format == format && g.b_format == Fp8Format::e4m3 && q.format == format, "other formats");
  require(g.m % 16 == 0 && g.n % 16 == 0 && g.k % 16 == 0, "multiples of 16 rows and columns");
  require(g.type == DType::bf16 && g.out_type == DType::bf16 && !g.accumulate && !g.precise, "other sums");
  require(q.d_out == nullptr && (derivative || q.column_sums == nullptr), "column sums without a derivative");
  require(aligned({g.a, g.b, g.c, q.x, q.out, q.transposed}), "aligned operands");
  QuantizeArguments a{};
  a.a = byte_tensor_map(g.a, g.m, g.k, kRows);
  a.b = byte_tensor_map(g.b, g.n, g.k, kColumns / kCluster);
  a.m = static_cast<int>(g.m);
  a.n = static_cast<int>(g.n);
  a.k = static_cast<int>(g.k);
  a.bias = static_cast<const __nv_bfloat16*>(g.bias);
  a.a_inverse = g.a_inverse;
  a.b_inverse = g.b_inverse;
  a.activation = q.activation;
  a.product = static_cast<__nv_bfloat16*>(g.c);
  a.argument = static_cast<const __nv_bfloat16*>(q.x);
  a.scale = q.scale;
  a.largest = q.largest;
  a.out = static_cast<uint8_t*>(q.out);
  a.transposed = static_cast<uint8_t*>(q.transposed);
  if (q.column_sums != nullptr) a.column_sums = static_cast<float*>(launch.workspace);
  launch_product(launch, derivative ? gemm_quantize_kernel<true> : gemm_quantize_kernel<false>, a,
                 kFinisherBytes, "fp8_gemm_quantize");
  if (q.column_sums == nullptr) return;
  sum_parts(launch, {.parts = a.column_sums,
                     .count = sum_parts_of(g.m),
                     .stride = g.n,
                     .columns = g.n,
                     .target = {static_cast<float*>(q.column_sums), nullptr},
                     .accumulate = {q.accumulate_sums, false}});
}

}  // namespace perceiver::kernels::cuda
