// Quantisation to 8 bits: row-major, transposed, or both in one pass, behind an activation or its derivative;
// with the largest magnitude and the column sums.
//
// A block of 256 threads takes a tile of 128 rows x 64 columns. A thread takes 8 columns of 4 successive
// rows, read in 16-byte accesses that are all issued first (a row of the tile is one line of 128 bytes),
// converts row by row, in pairs, and writes 8 bytes per row. For the transposed copy it packs the 4 rows of a
// column into a word in shared memory: [64 columns][32 words], 8 KB, words permuted within a row (word ^ 4 *
// column vector) so that a warp's stores fall into 32 banks; then a column's 128 rows leave as 16-byte
// accesses. Memory: each operand is read once and each result written once.
//
// Column sums: over a thread's 4 rows, then the 4 rows of threads of a warp by shuffles, then the 8 warps in
// order; one part per tile goes to the workspace, and column_sums.cu adds the parts. The order depends on the
// shape and the workspace's size alone.
#include "kernels/cuda/fp8/codes.cuh"
#include "kernels/cuda/support/activation.cuh"
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/cuda/support/dependent_launch.cuh"
#include "kernels/fp8.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTileRows = 128, kTileColumns = 64;
constexpr int kVector = 8;                       // columns of a thread
constexpr int kLanes = kTileColumns / kVector;   // threads side by side
constexpr int kThreadRows = 4;                   // one word of a transposed column
constexpr int kWords = kTileRows / kThreadRows;  // of a column of the tile
constexpr int kChunk = 16;                       // bytes of an access

using Packed = Pack<__nv_bfloat16, kVector>;

/// What a thread read of one operand.
struct Rows {
  Packed packs[kThreadRows];

  __device__ void load(const void* x, int64_t at, int64_t columns) {
    const auto* from = static_cast<const __nv_bfloat16*>(x) + at;
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) packs[r] = load_pack<kVector>(from + r * columns);
  }
};

/// What a thread found in its rows.
struct Found {
  Codes codes = {};
  float sums[kVector] = {};
  float largest = 0;

  template <__nv_fp8_interpretation_t kFormat>
  __device__ void add(int row, const float (&y)[kVector], float scale) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sums[i] += y[i];
      largest = fmaxf(largest, fabsf(y[i]));
    }
    codes[row][0] = encode<kFormat>(y, scale);
    codes[row][1] = encode<kFormat>(y + 4, scale);
  }
};

/// Quantises a thread's rows, one after the other, from element `at` on: activation(x), or with kDerivative
/// d_out * activation'(x).
template <__nv_fp8_interpretation_t kFormat, bool kDerivative>
__device__ inline void quantize_rows(const Fp8Quantize& k, int64_t at, Found& found) {
  const float scale = k.scale[0];
  Rows x, d_out;
  x.load(k.x, at, k.columns);
  if constexpr (kDerivative) d_out.load(k.d_out, at, k.columns);
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    float y[kVector];
    unpack(x.packs[r], y);
    if constexpr (kDerivative) {
      float d[kVector];
      unpack(d_out.packs[r], d);
      differentiate_argument(k.activation, y, d);
      found.add<kFormat>(r, d, scale);
    } else {
      activate(k.activation, y);
      found.add<kFormat>(r, y, scale);
    }
  }
}

__device__ inline void raise_largest(float most, float* largest) {
  __shared__ float parts[kThreads / 32];
  most = warp_max(most);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) most = fmaxf(most, parts[warp]);
  raise(largest, most);
}

__device__ inline int word_at(int column, int word) {
  return column * kWords + (word ^ (column / kVector * 4));
}

__device__ inline void write_transposed(const Fp8Quantize& k, const Codes& codes, int64_t first_row,
                                        int64_t first_column, int lane, int word) {
  __shared__ alignas(16) uint32_t tile[kTileColumns * kWords];
#pragma unroll
  for (int i = 0; i < kVector; ++i) tile[word_at(lane * kVector + i, word)] = transposed_word(codes, i);
  __syncthreads();
  constexpr int kChunks = kTileRows / kChunk;
  for (int i = static_cast<int>(threadIdx.x); i < kTileColumns * kChunks; i += kThreads) {
    const int column = i / kChunks, chunk = i % kChunks;
    const int64_t row = first_row + chunk * kChunk;
    if (first_column + column >= k.columns || row >= k.rows) continue;
    const uint4 bytes = *reinterpret_cast<const uint4*>(&tile[word_at(column, 4 * chunk)]);
    *reinterpret_cast<uint4*>(static_cast<uint8_t*>(k.transposed) + (first_column + column) * k.rows + row) =
        bytes;
  }
}

/// The tile's part of the column sums.
__device__ inline void write_sums(const float (&thread_sums)[kVector], int64_t first_column, int64_t columns,
                                  int lane, float* part) {
  __shared__ float sums[kThreads / 32][kTileColumns];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    float sum = thread_sums[i];
    sum += __shfl_xor_sync(0xffffffffu, sum, kLanes);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2 * kLanes);
    if (threadIdx.x % 32 < kLanes) sums[threadIdx.x / 32][lane * kVector + i] = sum;
  }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  if (column >= kTileColumns || first_column + column >= columns) return;
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) total += sums[warp][column];
  part[first_column + column] = total;
}

/// One tile. `part`: null, or where its column sums go, [columns]. Sizes are multiples of 16, so that a
/// thread's rows and columns are all inside of the matrix or all outside.
template <__nv_fp8_interpretation_t kFormat, bool kDerivative>
__device__ inline void quantize_tile(const Fp8Quantize& k, int64_t first_row, int64_t first_column,
                                     float* part) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes, word = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t row = first_row + word * kThreadRows, column = first_column + lane * kVector;
  Found found;
  if (row < k.rows && column < k.columns) {
    const int64_t at = row * k.columns + column;
    quantize_rows<kFormat, kDerivative>(k, at, found);
    if (k.out != nullptr) {
      uint8_t* out = static_cast<uint8_t*>(k.out) + at;
#pragma unroll
      for (int r = 0; r < kThreadRows; ++r)
        *reinterpret_cast<uint2*>(out + r * k.columns) = {found.codes[r][0], found.codes[r][1]};
    }
  }
  if (k.transposed != nullptr) write_transposed(k, found.codes, first_row, first_column, lane, word);
  if (part != nullptr) write_sums(found.sums, first_column, k.columns, lane, part);
  raise_largest(found.largest, k.largest);
}

/// Tiles of rows from `first_tile` on. `parts`: null, or [tiles of this launch, columns].
template <__nv_fp8_interpretation_t kFormat, bool kDerivative>
__global__ void __launch_bounds__(kThreads, kDerivative ? 4 : 5)
    quantize_kernel(Fp8Quantize k, int64_t first_tile, float* parts) {
  start_after_earlier_kernels();
  quantize_tile<kFormat, kDerivative>(k, (first_tile + blockIdx.y) * kTileRows,
                                      static_cast<int64_t>(blockIdx.x) * kTileColumns,
                                      parts != nullptr ? parts + blockIdx.y * k.columns : nullptr);
}

/// A matrix for each row of the grid, whose blocks share its tiles.
__global__ void __launch_bounds__(kThreads, 5) quantize_many_kernel(const Fp8Quantize* each) {
  const Fp8Quantize k = each[blockIdx.y];
  const int64_t across = (k.columns + kTileColumns - 1) / kTileColumns,
                tiles = (k.rows + kTileRows - 1) / kTileRows * across;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    if (tile >= gridDim.x) __syncthreads();  // The tile before may still be read from shared memory.
    quantize_tile<__NV_E4M3, false>(k, tile / across * kTileRows, tile % across * kTileColumns, nullptr);
  }
}

/// Calls body.template operator()<quantize_kernel<...>>() with the one for `k`.
template <typename Body>
void with_kernel(const Fp8Quantize& k, Body&& body) {
  const bool derivative = k.d_out != nullptr;
  if (k.format == Fp8Format::e4m3) {
    if (derivative) return body.template operator()<quantize_kernel<__NV_E4M3, true>>();
    return body.template operator()<quantize_kernel<__NV_E4M3, false>>();
  }
  if (derivative) return body.template operator()<quantize_kernel<__NV_E5M2, true>>();
  body.template operator()<quantize_kernel<__NV_E5M2, false>>();
}

/// Quantises `tiles` tiles of rows and adds up their column sums.
void quantize_tiles(const Launch& launch, const Fp8Quantize& k, int64_t first_tile, int64_t tiles) {
  float* parts = k.column_sums != nullptr ? static_cast<float*>(launch.workspace) : nullptr;
  const dim3 grid(static_cast<unsigned>(ceil_div(k.columns, kTileColumns)), static_cast<unsigned>(tiles));
  with_kernel(
      k, [&]<auto kKernel>() {
        launch_dependent<kKernel>(launch, "fp8_quantize", grid, kThreads, 0, k, first_tile, parts);
      });
  if (parts == nullptr) return;
  sum_parts(launch, {.parts = parts,
                     .count = tiles,
                     .stride = k.columns,
                     .columns = k.columns,
                     .target = {static_cast<float*>(k.column_sums)},
                     .accumulate = {k.accumulate_sums || first_tile > 0}});
}

}  // namespace

void fp8_quantize(const Launch& launch, const Fp8Quantize& k) {
  require(k.type == DType::bf16 && k.rows % 16 == 0 && k.columns % 16 == 0,
          "bf16 matrices of multiples of 16 rows and columns");
  require(aligned({k.x, k.d_out, k.out, k.transposed}), "aligned operands");
  if (k.rows == 0 || k.columns == 0) return;
  constexpr int64_t kMostTiles = 65535;  // of a grid's second dimension
  const int64_t tiles = ceil_div(k.rows, kTileRows);
  const int64_t step =
      k.column_sums == nullptr ? kMostTiles : std::min(kMostTiles, parts_that_fit(launch, k.columns));
  for (int64_t first = 0; first < tiles; first += step)
    quantize_tiles(launch, k, first, std::min(step, tiles - first));
}

void fp8_quantize_many(const Launch& launch, const Fp8QuantizeMany& k) {
  require(k.type == DType::bf16, "bf16 matrices");
  if (k.count == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(k.most_elements, int64_t{kTileRows} * kTileColumns)),
                  static_cast<unsigned>(k.count));
  quantize_many_kernel<<<grid, kThreads, 0, stream_of(launch)>>>(k.each);
  check_launch("fp8_quantize_many");
}

}  // namespace perceiver::kernels::cuda
