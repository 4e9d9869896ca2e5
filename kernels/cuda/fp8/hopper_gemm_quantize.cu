// Products of 8-bit operands on Hopper whose results are quantised in the epilogue: hopper_product.cuh
// multiplies, and the finishers do what quantize.cu does in a pass of its own.
//
// A finishing warp takes units of 64 x 64 of the result, a swizzled tile of a slab, every third one. Of a
// unit it takes 16 rows at a time: a lane 8 columns of 4 successive rows. It writes these in 8 bytes a row,
// and packs the 4 rows of a column into a word that goes where the 16 rows were in shared memory: [64
// columns][16 bytes], their order permuted so that neither access has bank conflicts. At the end of a unit a
// column's 64 rows leave in 4 accesses of neighbouring lanes. Derivatives are left to the threads that
// multiply (slab_factors.cuh).
#include <type_traits>

#include "kernels/cuda/fp8/codes.cuh"
#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/cuda/gemm/slab_factors.cuh"
#include "kernels/cuda/hopper/device.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/support/activation.cuh"
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/cuda/support/shared_access.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/fp8.h"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kWidth = 8, kLaneRows = 4;
constexpr int kPassRows = 16, kPasses = kSlabRows / kPassRows;
constexpr uint32_t kPassBytes = kPassRows * kRowBytes;

struct QuantizeArguments : ProductArguments {
  Activation activation;
  __nv_bfloat16* product;
  CUtensorMap argument;  // of the derivative
  const float* scale;
  float* largest;
  uint8_t *out, *transposed;
  float* column_sums;  // [units of rows, n]
};

/// kDerivative: A and the result are e5m2.
template <bool kDerivative>
class QuantizeBlock : public FactorBlock<Fp8Operands<kDerivative>> {
  using Base = FactorBlock<Fp8Operands<kDerivative>>;
  static constexpr __nv_fp8_interpretation_t kFormat = kDerivative ? __NV_E5M2 : __NV_E4M3;

  using Rows = uint4[kLaneRows];  // 8 bf16 each, of a lane in a pass

 public:
  __device__ QuantizeBlock(const QuantizeArguments& arguments, unsigned char* memory)
      : Base(arguments, memory),
        args_(arguments),
        column_(lane() % 8 * kWidth),
        first_row_(lane() / 8 * kLaneRows),
        rows_place_(swizzled_offset(first_row_, column_ / kWidth)) {}

  __device__ void finish() const {
    with_activation(args_.activation, [&]<Activation kActivation>() { finish_units<kActivation>(); });
  }

 private:
  template <Activation kActivation>
  __device__ void finish_units() const {
    const float scale = *args_.scale;
    float largest = 0;
    const auto finish = [&](const Unit& unit) { finish_unit<kActivation>(unit, scale, largest); };
    if constexpr (kDerivative) {
      this->finish_with_factors(
          args_.argument, [](uint32_t argument) { return derivatives<kActivation>(argument); }, finish);
    } else {
      finish_with_bias(finish);
    }
    largest = warp_max(largest);
    if (lane() == 0) raise(args_.largest, largest);
  }

  /// Of two arguments.
  template <Activation kActivation>
  __device__ static uint32_t derivatives(uint32_t arguments) {
    if constexpr (kActivation == Activation::squared_relu) {
      const uint32_t positive = max_pairs(arguments, 0);
      return add_pairs(positive, positive);
    } else {
      const float2 x = cuda::unpack(arguments);
      return pack(derivative(kActivation, x.x), derivative(kActivation, x.y));
    }
  }

  template <typename Finish>
  __device__ void finish_with_bias(Finish&& finish) const {
    for (int unit = this->finisher_warp(); unit < kUnits; unit += kFinisherWarps) {
      const Units first(args_, unit);
      hand_over(first, read_bias(first.unit().at.column));
    }
    for (Units units(args_, this->finisher_warp()); !units.done(); units.advance()) {
      const Bias bias = read_bias(units.has_next() ? units.next().at.column : args_.n);
      mbarrier_wait(this->slab_full(units.slab(), units.slab_tile()), units.phase());
      finish(units.unit());
      hand_over(units, bias);
    }
  }

  /// Where a lane is in a unit.
  struct Place {
    int row, column;  // its first ones
    int rows;         // of the matrix, from the unit's first one on, or 0 where the lane has no columns

    __device__ bool inside(int pass) const { return pass * kPassRows < rows; }
  };

  __device__ Place place_of(const Tile& at) const {
    const int column = at.column + column_;
    return {at.row + first_row_, column, column < args_.n ? args_.m - at.row : 0};
  }
  __device__ int64_t element(const Place& place, int pass, int row) const {
    return static_cast<int64_t>(place.row + pass * kPassRows + row) * args_.n + place.column;
  }

  /// Of a lane's two columns.
  struct Bias {
    __nv_bfloat16 x[2];
  };
  __device__ Bias read_bias(int column) const {
    Bias bias{};
    column += 2 * lane();
    if (args_.bias != nullptr && column < args_.n)
      for (int i = 0; i < 2; ++i) bias.x[i] = args_.bias[column + i];
    return bias;
  }
  /// Gives a unit's part of a slab to the multiplying warpgroup, with the bias of the next tile.
  __device__ void hand_over(const Units& units, const Bias& bias) const {
    if (args_.bias != nullptr)
      *reinterpret_cast<float2*>(this->bias(units.slab()) + units.slab_tile() * kTileColumns + 2 * lane()) = {
          to_float(bias.x[0]), to_float(bias.x[1])};
    mbarrier_arrive_warp(this->slab_empty(units.slab(), units.slab_tile()));
  }

  template <Activation kActivation>
  __device__ void finish_unit(const Unit& unit, float scale, float& largest) const {
    const Place place = place_of(unit.at);
    const uint32_t tile = shared_address(this->slab_tile(unit.slab, unit.tile));
    float sums[kWidth] = {};
    Rows rows;
    load_rows(tile, 0, rows);
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      Codes codes;
      finish_rows<kActivation>(rows, place, pass, scale, codes, sums, largest);
      if (pass + 1 < kPasses) load_rows(tile, pass + 1, rows);
      __syncwarp();  // The rows of this pass have been read.
      const uint32_t words = column_bytes(tile, pass, column_) + first_row_;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) store_shared(words ^ i * kPassRows, transposed_word(codes, i));
    }
    __syncwarp();
    if (args_.transposed != nullptr) write_transposed(tile, place);
    if constexpr (kDerivative)
      if (args_.column_sums != nullptr) write_sums(place, sums);
  }

  __device__ void load_rows(uint32_t tile, int pass, Rows& rows) const {
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r)
      rows[r] = load_shared((tile + pass * kPassBytes + rows_place_ ^ r * 16) + r * kRowBytes);
  }

  /// Quantises a lane's rows of a pass, activated if they are no derivatives, and writes them. What is
  /// outside of the matrix is computed as well, since a branch around it would keep the rows from being
  /// computed together; derivatives are 0 there.
  template <Activation kActivation>
  __device__ void finish_rows(const Rows& rows, const Place& place, int pass, float scale, Codes& codes,
                              float (&sums)[kWidth], float& largest) const {
    float most = 0;
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      float y[kWidth];
      unpack(rows[r], y);
      if constexpr (kDerivative) {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) sums[j] += y[j];
      } else {
        activate_row<kActivation>(y);
      }
      codes[r][0] = encode<kFormat>(y, scale);
      codes[r][1] = encode<kFormat>(y + 4, scale);
      most = fmaxf(most, largest_of(y));
    }
    const bool inside = place.inside(pass);
    const int64_t first = element(place, pass, 0);
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      const int64_t at = first + r * static_cast<int64_t>(args_.n);
      if (!kDerivative && inside && args_.product != nullptr)
        *reinterpret_cast<uint4*>(args_.product + at) = rows[r];
      if (inside && args_.out != nullptr)
        *reinterpret_cast<uint2*>(args_.out + at) = {codes[r][0], codes[r][1]};
    }
    if (kDerivative || inside) largest = fmaxf(largest, most);
  }

  template <Activation kActivation>
  __device__ static void activate_row(float (&y)[kWidth]) {
    if constexpr (kActivation == Activation::squared_relu) {
#pragma unroll
      for (float& each : y) {
        asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(each) : "f"(each));
        each *= each;
      }
    } else {
      activate(kActivation, y);
    }
  }
  __device__ static void unpack(const uint4& packed, float (&x)[kWidth]) {
    const uint32_t words[] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int j = 0; j < kWidth; ++j)
      x[j] = __uint_as_float(j % 2 == 0 ? words[j / 2] << 16 : words[j / 2] & 0xFFFF0000u);
  }
  __device__ static float largest_of(const float (&x)[kWidth]) {
    const auto pair = [&](int j) { return fmaxf(fabsf(x[j]), fabsf(x[j + 1])); };
    return fmaxf(fmaxf(pair(0), pair(2)), fmaxf(pair(4), pair(6)));
  }

  /// Where the 16 rows of a column of a unit are: bits 4 to 6 are those of the column XORed with its vector
  /// of 8 and with the pass. Of the lanes that write together, one in each vector, and of those that read
  /// together, two columns of all passes, each 8 have other banks.
  __device__ static uint32_t column_bytes(uint32_t tile, int pass, int column) {
    const int vector = column / kWidth;
    return tile + pass * kPassBytes +
           (vector * kWidth + ((column % kWidth) ^ vector ^ (2 * pass))) * kPassRows;
  }

  __device__ void write_transposed(uint32_t tile, const Place& place) const {
    constexpr int kColumns = 32 / kPasses;  // of all lanes
    const int pass = lane() % kPasses;
    const int row = place.row - first_row_ + pass * kPassRows, column = lane() / kPasses;
    const int first = place.column - column_ + column;
    uint4 bytes[kTileColumns / kColumns];
#pragma unroll
    for (int i = 0; i < kTileColumns / kColumns; ++i)
      bytes[i] = load_shared(column_bytes(tile, pass, column + i * kColumns));
    uint8_t* to = args_.transposed + static_cast<int64_t>(first) * args_.m + row;
#pragma unroll
    for (int i = 0; i < kTileColumns / kColumns; ++i, to += static_cast<int64_t>(kColumns) * args_.m)
      if (row < args_.m && first + i * kColumns < args_.n) *reinterpret_cast<uint4*>(to) = bytes[i];
  }

  /// The sums of a unit's columns, over the four lanes that have each.
  __device__ void write_sums(const Place& place, float (&sums)[kWidth]) const {
    add_rows_of_lanes(sums);
    if (first_row_ == 0 && place.inside(0))
      cuda::store(args_.column_sums + static_cast<int64_t>(place.row / kSlabRows) * args_.n + place.column,
                  sums);
  }

  const QuantizeArguments& args_;
  const int column_, first_row_;  // of this lane within a unit, of each pass
  // Its first row in a pass of a unit; the 16 bytes of the row r places later are there, but for their
  // swizzle, XOR 16 r.
  const uint32_t rows_place_;
};

template <bool kDerivative>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(kThreads, 1)
    gemm_quantize_kernel(const __grid_constant__ QuantizeArguments arguments) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  QuantizeBlock<kDerivative> block(arguments, memory);
  using Change = std::conditional_t<kDerivative, SlabFactors, Unchanged>;
  block.template run<1>([&] { block.finish(); }, Change{});
#endif
}

}  // namespace

bool fp8_gemm_quantizes(const Launch& launch, int64_t m, int64_t n) {
  return hopper::built() && hopper::on_hopper() && hopper_gemm_fills(launch, m, n) && m <= INT32_MAX &&
         hopper_gemm_sums(m) <= parts_that_fit(launch, n);
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
  require(!derivative || (g.c == nullptr && g.bias == nullptr), "a derivative with its product or a bias");
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
  if (derivative) a.argument = tensor_map(q.x, 1, g.m, g.n, g.n, kSlabRows);
  a.scale = q.scale;
  a.largest = q.largest;
  a.out = static_cast<uint8_t*>(q.out);
  a.transposed = static_cast<uint8_t*>(q.transposed);
  if (q.column_sums != nullptr) a.column_sums = static_cast<float*>(launch.workspace);
  constexpr const char* kName = "fp8_gemm_quantize";
  if (derivative) {
    launch_product<gemm_quantize_kernel<true>>(launch, kName, a);
  } else {
    launch_product<gemm_quantize_kernel<false>>(launch, kName, a);
  }
  if (q.column_sums == nullptr) return;
  sum_parts(launch, {.parts = a.column_sums,
                     .count = hopper_gemm_sums(g.m),
                     .stride = g.n,
                     .columns = g.n,
                     .target = {static_cast<float*>(q.column_sums)},
                     .accumulate = {q.accumulate_sums}});
}

}  // namespace perceiver::kernels::cuda
