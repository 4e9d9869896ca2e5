// LayerNorm (behind the residual addition and dropout) whose result is quantised to 8 bits, row-major and
// transposed, instead of being written in bf16 and read again.
//
// A block of 8 warps takes 32 rows, a warp 4 successive ones, one after the other; the next row is on its way
// from memory meanwhile. A lane has 8 neighbouring columns of each 256. Its codes go to global memory and,
// for the transposed copy, to a RowTile. Shared memory: 33 KiB at 1024 columns.
#include "kernels/cuda/fp8/row_tile.cuh"
#include "kernels/cuda/norm/layer_norm.cuh"
#include "kernels/cuda/support/dependent_launch.cuh"
#include "kernels/fp8.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpRows = 4, kRows = kThreads / 32 * kWarpRows;
constexpr int kVector = 8;  // columns of a lane

template <typename Shape>
class LayerNormTile {
  using Tile = RowTile<kRows, Shape::kGroup * Shape::kPacks * kVector>;
  static_assert(Shape::N == kVector && Shape::kGroup == 32);

 public:
  static constexpr int kWords = Tile::kWords;

  __device__ LayerNormTile(const ResidualLayerNorm& norm, const Fp8Quantize& quantize, uint32_t* words)
      : norm_(norm), quantize_(quantize), tile_(words) {}

  __device__ void run() const {
    const int64_t block_row = static_cast<int64_t>(blockIdx.x) * kRows;
    const int warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
    if (block_row + warp_row < norm_.rows) quantise_rows(block_row + warp_row, warp_row);
    if (quantize_.transposed == nullptr) return;
    __syncthreads();
    tile_.template write_transposed<kThreads>(static_cast<uint8_t*>(quantize_.transposed), block_row,
                                              norm_.rows, static_cast<int>(norm_.columns));
  }

 private:
  /// A warp's rows, which are all inside of the matrix, since their number is a multiple of 16.
  __device__ void quantise_rows(int64_t first, int tile_row) const {
    const DropoutFactors factors(norm_.mask);
    const float scale = *quantize_.scale;
    float largest = 0;
    ForwardRow<Shape> in;
    in.load(norm_, first);
#pragma unroll 1
    for (int r = 0; r < kWarpRows; ++r) {
      asm volatile("" ::: "memory");  // There are no registers to keep scale and offset for the next row.
      const int64_t row = first + r;
      RowValues<Shape> x;
      const float sum = add_row(norm_, in, row, factors, x);
      if (r + 1 < kWarpRows) in.load(norm_, row + 1);
      normalise_row<Shape>(norm_, row, sum, x, [&](int p, float(&y)[kVector]) {
        const int column = static_cast<int>(Shape::column(p));
#pragma unroll
        for (float& each : y) {
          each = rounded<__nv_bfloat16>(each);
          largest = fmaxf(largest, fabsf(each));
        }
        const uint2 codes = {encode<__NV_E4M3>(y, scale), encode<__NV_E4M3>(y + 4, scale)};
        *reinterpret_cast<uint2*>(static_cast<uint8_t*>(quantize_.out) + row * norm_.columns + column) =
            codes;
        tile_.put(tile_row + r, column, codes);
      });
    }
    largest = warp_max(largest);
    if (Shape::lane() == 0) raise(quantize_.largest, largest);
  }

  const ResidualLayerNorm& norm_;
  const Fp8Quantize& quantize_;
  const Tile tile_;
};

template <typename Shape>
__global__ void __launch_bounds__(kThreads, 2)
    layer_norm_quantize_kernel(ResidualLayerNorm norm, Fp8Quantize quantize) {
  start_after_earlier_kernels();
  __shared__ uint32_t words[LayerNormTile<Shape>::kWords];
  LayerNormTile<Shape>(norm, quantize, words).run();
}

template <int kElements>
void launch_tiles(const Launch& launch, const Fp8LayerNorm& k) {
  using Shape = RowShape<__nv_bfloat16, kVector, 32, kElements>;
  launch_dependent<layer_norm_quantize_kernel<Shape>>(launch, "fp8_layer_norm",
                                                      static_cast<unsigned>(ceil_div(k.norm.rows, kRows)),
                                                      kThreads, 0, k.norm, k.quantize);
}

}  // namespace

bool fp8_layer_norm_possible(int64_t columns) {
  return columns <= 1024;
}

void fp8_layer_norm(const Launch& launch, const Fp8LayerNorm& k) {
  const ResidualLayerNorm& n = k.norm;
  const Fp8Quantize& q = k.quantize;
  require(
      n.type == DType::bf16 && n.rows % 16 == 0 && n.columns % 16 == 0 && fp8_layer_norm_possible(n.columns),
      "bf16 matrices of multiples of 16 rows and columns, 1024 at most");
  require(n.y == nullptr && q.out != nullptr && q.format == Fp8Format::e4m3 && q.column_sums == nullptr,
          "codes of e4m3 alone");
  require(aligned({n.residual, n.branch, n.sum, n.scale, n.offset, q.out, q.transposed}), "aligned operands");
  if (n.rows == 0) return;
  if (n.columns <= 512) return launch_tiles<16>(launch, k);
  launch_tiles<32>(launch, k);
}

}  // namespace perceiver::kernels::cuda
