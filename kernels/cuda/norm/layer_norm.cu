// Residual add with dropout, LayerNorm, and their backward.
//
// A row is held in registers by one warp (up to 1024 columns) or by a block of 256 threads (up to 8192, and
// ragged widths), each thread with 16 or 32 elements, read in 16-byte accesses that are all issued before the
// first use; a reduction is shuffles within the warp. Mean and variance are two passes over the registers.
// Memory: every operand is read or written once; scale and offset come from the L1 cache.
//
// Backward: a persistent grid walks over the rows and keeps its share of d_scale, d_offset and branch_sums in
// registers, then writes one part [2 or 3, columns] per block, which adds those of its rows at a time in
// shared memory, into the workspace, and column_sums.cu adds the parts. Which rows a block takes depends on
// the shape and the number of SMs alone. Rows in 16 bits come through a ring in shared memory (cp.async), two
// rows ahead of the one being worked on: 96 bytes a thread and row, 147 KiB an SM, of which up to 98 are in
// flight. A thread reads what it copied itself, so that the ring needs no barrier. Registers would hold one
// row ahead.
//
// The add alone (no LayerNorm) is a flat elementwise kernel.
#include <algorithm>

#include "kernels/cuda/elementwise/elementwise.cuh"
#include "kernels/cuda/norm/layer_norm_backward.cuh"
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/cuda/support/dependent_launch.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int64_t kMaxColumns = 8192;

/// Calls body.template operator()<Shape>() with the smallest shape for the row.
template <typename T, typename Body>
void with_shape(int64_t columns, bool wide, Body&& body) {
  require(columns <= kMaxColumns, "rows of at most 8192 elements in LayerNorm");
  constexpr int N = kWide<T>;
  if (!wide) {
    body.template operator()<RowShape<T, 1, kBlock, 32>>();
  } else if (columns <= 512) {
    body.template operator()<RowShape<T, N, 32, 16>>();
  } else if (columns <= 1024) {
    body.template operator()<RowShape<T, N, 32, 32>>();
  } else {
    body.template operator()<RowShape<T, N, kBlock, 32>>();
  }
}

/// Backward keeps two sums per element, hence fewer elements per thread.
template <typename T, typename Body>
void with_backward_shape(int64_t columns, bool wide, Body&& body) {
  require(columns <= kMaxColumns, "rows of at most 8192 elements in LayerNorm");
  constexpr int N = kWide<T>;
  if (!wide) {
    body.template operator()<RowShape<T, 1, 512, 16>>();
  } else if (columns <= 512) {
    body.template operator()<RowShape<T, N, 32, 16>>();
  } else if (columns <= 1024) {
    body.template operator()<RowShape<T, N, 64, 16>>();
  } else {
    body.template operator()<RowShape<T, N, 512, 16>>();
  }
}

template <typename Shape>
__global__ void __launch_bounds__(kBlock, Shape::kGroup == 32 ? 3 : 2) forward_kernel(ResidualLayerNorm k) {
  start_after_earlier_kernels();
  using T = typename Shape::T;
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kBlock / Shape::kGroup) + threadIdx.x / Shape::kGroup;
  if (row >= k.rows) return;
  ForwardRow<Shape> in;
  in.load(k, row);
  RowValues<Shape> x;
  const float sum = add_row(k, in, row, DropoutFactors(k.mask), x);
  normalise_row<Shape>(k, row, sum, x, [&](int p, const float(&y)[Shape::N]) {
    store(static_cast<T*>(k.y) + row * k.columns + Shape::column(p), y);
  });
}

/// kDrops: whether there is a dropout mask.
template <typename Shape, bool kDrops, typename L = BackwardLaunch<Shape, kDrops>>
__global__ void __launch_bounds__(L::kThreads, L::kBlocks)
    backward_kernel(ResidualLayerNormBackward k, float* parts) {
  start_after_earlier_kernels();
  extern __shared__ __align__(16) unsigned char memory[];
  const DropoutFactors factors(k.mask);
  ColumnSums<L> columns;
  StridedRows sequence(static_cast<int64_t>(blockIdx.x) * L::kGroups + threadIdx.x / Shape::kGroup,
                       static_cast<int64_t>(gridDim.x) * L::kGroups);
  BackwardRows<L, StridedRows> rows(k, sequence, memory);
  for (int buffer = 0; sequence.row() < k.rows; sequence.advance(), buffer = 1 - buffer) {
    const BackwardRow<Shape> current = rows.take();
    const float2 means = gather_row(k, current, buffer, columns);
    write_row<kDrops>(k, current, sequence.row(), means, factors, columns, [](int, const auto&) {});
    if (k.y != nullptr) write_normal(k, current, sequence.row());
  }
  if (parts != nullptr) columns.write(column_sums_of(k), k.columns, parts, reinterpret_cast<float*>(memory));
}

/// Returns the number of blocks, which is the number of parts.
template <typename Shape, bool kDrops>
int64_t launch_backward(const Launch& launch, const ResidualLayerNormBackward& k, float* parts) {
  using L = BackwardLaunch<Shape, kDrops>;
  const int64_t resident = int64_t{launch.sm_count} * L::kBlocks;
  const int64_t blocks = std::min(
      {resident, ceil_div(k.rows, L::kGroups), parts_that_fit(launch, column_sums_of(k) * k.columns)});
  if (blocks == 0) return 0;
  constexpr int kBytes = kBackwardBytes<L, StridedRows>;
  if (kBytes > 0)
    check(cudaFuncSetAttribute(backward_kernel<Shape, kDrops>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               kBytes),
          "shared memory of layer_norm_backward");
  launch_dependent<backward_kernel<Shape, kDrops>>(
      launch, "layer_norm_backward", static_cast<unsigned>(blocks), L::kThreads, kBytes, k, parts);
  return blocks;
}

/// sum = residual + dropout(branch), without LayerNorm.
template <typename T>
struct ResidualAddOp {
  const T* residual;
  const T* branch;
  T* sum;
  DropoutMask mask;

  template <int N>
  struct Values {
    Pack<T, N> residual, branch;
  };
  __device__ bool begin() { return true; }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v.branch = load_pack<N>(branch + i);
    if (residual != nullptr) v.residual = load_pack<N>(residual + i);
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    float x[N], factor[N];
    DropoutFactors(mask).get(i, factor);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      x[j] = to_float(v.branch.x[j]) * factor[j];
      if (residual != nullptr) x[j] += to_float(v.residual.x[j]);
    }
    cuda::store(sum + i, x);
  }
};

template <typename T>
void add_alone(const Launch& launch, const ResidualLayerNorm& k) {
  const ResidualAddOp<T> op{static_cast<const T*>(k.residual), static_cast<const T*>(k.branch),
                            static_cast<T*>(k.sum), k.mask};
  for_each_element<kWide<T>>(launch, k.rows * k.columns, aligned({k.residual, k.branch, k.sum}), op,
                             "residual add");
}

}  // namespace

void residual_layer_norm(const Launch& launch, const ResidualLayerNorm& k) {
  if (k.rows == 0 || (k.y == nullptr && k.branch == nullptr)) return;
  with_type(k.type, [&]<typename T>() {
    if (k.y == nullptr) return add_alone<T>(launch, k);
    const bool wide = wide_rows<T>(k.columns, {k.residual, k.branch, k.sum, k.scale, k.offset, k.y});
    with_shape<T>(k.columns, wide, [&]<typename Shape>() {
      const int64_t blocks = ceil_div(k.rows, kBlock / Shape::kGroup);
      launch_dependent<forward_kernel<Shape>>(launch, "layer_norm", static_cast<unsigned>(blocks), kBlock, 0,
                                              k);
    });
  });
}

void residual_layer_norm_backward(const Launch& launch, const ResidualLayerNormBackward& arguments) {
  const ResidualLayerNormBackward k = adding_ahead(arguments);
  float* const parts = parts_of_backward(launch, k);
  int64_t blocks = 0;
  with_type(k.type, [&]<typename T>() {
    const bool wide =
        wide_rows<T>(k.columns, {k.x, k.scale, k.d_y, k.d_sum, k.d_x, k.d_branch, k.offset, k.y});
    with_backward_shape<T>(k.columns, wide, [&]<typename Shape>() {
      if (k.d_branch != nullptr && k.mask.threshold > 0) {
        blocks = launch_backward<Shape, true>(launch, k, parts);
      } else {
        blocks = launch_backward<Shape, false>(launch, k, parts);
      }
    });
  });
  sum_parts_of_backward(launch, k, parts, blocks);
}

}  // namespace perceiver::kernels::cuda
