// LayerNorm's backward whose gradient of the branch is also quantised to e5m2, row-major and transposed, for
// the products of the layer that made the branch.
//
// Rows are computed as in layer_norm.cu, but a block takes kRows successive ones at a time, so that their
// codes can leave by columns from a RowTile; meanwhile the first rows of its next ones are on their way.
// Shared memory, beside that of the rows: 33 KiB at 1024 columns, where two blocks fit on a multiprocessor.
#include "kernels/cuda/fp8/row_tile.cuh"
#include "kernels/cuda/norm/layer_norm_backward.cuh"
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/cuda/support/dependent_launch.cuh"
#include "kernels/fp8.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kRows = 32, kVector = 8;

/// The rows of one of kGroups groups of threads: of its block's kRows rows, and of those that many blocks on,
/// every kGroups-th.
template <int kGroups>
class TileRows {
 public:
  __device__ explicit TileRows(int group) : row_(static_cast<int64_t>(blockIdx.x) * kRows + group) {}
  __device__ int64_t row() const { return row_; }
  __device__ int tile_row() const { return static_cast<int>(row_ % kRows); }
  __device__ void advance() {
    row_ += kGroups;
    if (row_ % kRows < kGroups) row_ += static_cast<int64_t>(gridDim.x - 1) * kRows;
  }

 private:
  int64_t row_;
};

template <typename L>
class BackwardTile {
  using Shape = typename L::Shape;
  using Sequence = TileRows<L::kGroups>;
  using Tile = RowTile<kRows, Shape::kGroup * Shape::kPacks * kVector>;
  static constexpr int kRowBytes = kBackwardBytes<L, Sequence>;
  static_assert(Shape::N == kVector && kRows % L::kGroups == 0);

 public:
  static constexpr int kBytes = kRowBytes + Tile::kWords * 4;

  __device__ BackwardTile(const ResidualLayerNormBackward& norm, const Fp8Quantize& quantize,
                          unsigned char* memory)
      : norm_(norm),
        quantize_(quantize),
        memory_(memory),
        tile_(reinterpret_cast<uint32_t*>(memory + kRowBytes)),
        sequence_(static_cast<int>(threadIdx.x) / Shape::kGroup) {}

  __device__ void run(float* parts) {
    BackwardRows<L, Sequence> rows(norm_, sequence_, memory_);
    const float scale = *quantize_.scale;
    const int64_t step = static_cast<int64_t>(gridDim.x) * kRows;
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * kRows; first < norm_.rows; first += step) {
      for (int i = 0; i < kRows / L::kGroups; ++i, sequence_.advance())
        if (sequence_.row() < norm_.rows) take_row(rows.take(), i % 2, scale);
      __syncthreads();
      tile_.template write_transposed<L::kThreads>(static_cast<uint8_t*>(quantize_.transposed), first,
                                                   norm_.rows, static_cast<int>(norm_.columns));
      __syncthreads();
    }
    raise_largest();
    if (parts != nullptr)
      columns_.write(column_sums_of(norm_), norm_.columns, parts, reinterpret_cast<float*>(memory_));
  }

 private:
  __device__ void take_row(const BackwardRow<Shape>& in, int buffer, float scale) {
    const int64_t row = sequence_.row();
    const float2 means = gather_row(norm_, in, buffer, columns_);
    write_row<false>(
        norm_, in, row, means, DropoutFactors(norm_.mask), columns_, [&](int p, float(&d)[kVector]) {
          const int column = static_cast<int>(Shape::column(p));
#pragma unroll
          for (float& each : d) {
            each = rounded<__nv_bfloat16>(each);
            largest_ = fmaxf(largest_, fabsf(each));
          }
          const uint2 codes = {encode<__NV_E5M2>(d, scale), encode<__NV_E5M2>(d + 4, scale)};
          *reinterpret_cast<uint2*>(static_cast<uint8_t*>(quantize_.out) + row * norm_.columns + column) =
              codes;
          tile_.put(sequence_.tile_row(), column, codes);
        });
    if (norm_.y != nullptr) write_normal(norm_, in, row);
  }

  __device__ void raise_largest() const {
    const float most = warp_max(largest_);
    if (threadIdx.x % 32 == 0) raise(quantize_.largest, most);
  }

  const ResidualLayerNormBackward& norm_;
  const Fp8Quantize& quantize_;
  unsigned char* memory_;
  const Tile tile_;
  Sequence sequence_;
  ColumnSums<L> columns_;
  float largest_ = 0;
};

template <typename L>
__global__ void __launch_bounds__(L::kThreads, L::kBlocks)
    layer_norm_backward_quantize_kernel(ResidualLayerNormBackward norm, Fp8Quantize quantize, float* parts) {
  start_after_earlier_kernels();
  extern __shared__ __align__(16) unsigned char memory[];
  BackwardTile<L>(norm, quantize, memory).run(parts);
}

/// Returns the number of blocks, which is the number of parts.
template <int kGroup>
int64_t launch_tiles(const Launch& launch, const ResidualLayerNormBackward& norm, const Fp8Quantize& quantize,
                     float* parts) {
  using L = BackwardLaunch<RowShape<__nv_bfloat16, kVector, kGroup, 16>, false>;
  constexpr const char* kName = "fp8_layer_norm_backward";
  constexpr int kBytes = BackwardTile<L>::kBytes;
  check(cudaFuncSetAttribute(layer_norm_backward_quantize_kernel<L>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        kName);
  const int64_t blocks = std::min({int64_t{launch.sm_count} * L::kBlocks, ceil_div(norm.rows, kRows),
                                   parts_that_fit(launch, column_sums_of(norm) * norm.columns)});
  launch_dependent<layer_norm_backward_quantize_kernel<L>>(launch, kName, static_cast<unsigned>(blocks),
                                                           L::kThreads, kBytes, norm, quantize, parts);
  return blocks;
}

}  // namespace

void fp8_layer_norm_backward(const Launch& launch, const Fp8LayerNormBackward& k) {
  const ResidualLayerNormBackward n = adding_ahead(k.norm);
  const Fp8Quantize& q = k.quantize;
  require(
      n.type == DType::bf16 && n.rows % 16 == 0 && n.columns % 16 == 0 && fp8_layer_norm_possible(n.columns),
      "bf16 matrices of multiples of 16 rows and columns, 1024 at most");
  require(n.mask.threshold == 0 && n.d_branch == nullptr, "nothing dropped");
  require(
      q.out != nullptr && q.transposed != nullptr && q.format == Fp8Format::e5m2 && q.column_sums == nullptr,
      "both copies of codes of e5m2");
  require(aligned({n.x, n.scale, n.d_y, n.d_sum, n.d_x, n.offset, n.y, q.out, q.transposed}),
          "aligned operands");
  if (n.rows == 0) return;
  float* const parts = parts_of_backward(launch, n);
  const int64_t blocks =
      n.columns <= 512 ? launch_tiles<32>(launch, n, q, parts) : launch_tiles<64>(launch, n, q, parts);
  sum_parts_of_backward(launch, n, parts, blocks);
}

}  // namespace perceiver::kernels::cuda
