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

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/elementwise/elementwise.cuh"
#include "kernels/cuda/norm/layer_norm.cuh"
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

/// How the backward of a shape is launched: as many threads on an SM as the registers allow (the words of a
/// dropout mask take some too), in few blocks, since each writes a part of the sums.
template <typename S, bool kDrops>
struct BackwardLaunch {
  using Shape = S;
  static constexpr bool kFewRegisters = sizeof(typename Shape::T) == 2 && !kDrops;
  static constexpr int kThreads = Shape::kGroup == 512                   ? 512
                                  : Shape::kGroup == 64 && kFewRegisters ? 256
                                                                         : 128;
  static constexpr int kGroups = kThreads / Shape::kGroup;  // rows at a time
  static constexpr int kBlocks = Shape::kGroup == 512 ? 1 : (kFewRegisters ? 512 : 384) / kThreads;
};

/// What backward reads for a row.
template <typename Shape>
struct BackwardRow {
  Share<Shape> x, d_y, d_sum;
  float2 statistics;  // mean and 1 / standard deviation
};

__device__ inline float2 statistics_of(const ResidualLayerNormBackward& k, int64_t row) {
  if (row >= k.rows) return {0, 0};
  return {static_cast<const float*>(k.mean)[row], static_cast<const float*>(k.rstd)[row]};
}

/// The rows of a thread, one ahead in registers.
template <typename Shape>
class RegisterRows {
 public:
  static constexpr int kBytes = 0;
  __device__ RegisterRows(const ResidualLayerNormBackward& k, int64_t row, int64_t, void*) : k_(k) {
    load(row);
  }

  /// The current row; `next` is the one after it.
  __device__ BackwardRow<Shape> take(int64_t next) {
    const BackwardRow<Shape> current = next_;
    load(next);
    return current;
  }

 private:
  __device__ void load(int64_t row) {
    if (row >= k_.rows) return;
    next_.x.load(k_.x, row, k_.columns);
    next_.d_y.load(k_.d_y, row, k_.columns);
    if (k_.d_sum != nullptr) next_.d_sum.load(k_.d_sum, row, k_.columns);
    next_.statistics = statistics_of(k_, row);
  }

  const ResidualLayerNormBackward& k_;
  BackwardRow<Shape> next_;
};

/// The rows of a thread, two ahead in shared memory: [stage, operand, pack, thread] of 16 bytes.
template <typename Shape, int kThreads>
class SharedRows {
  using Packed = typename Share<Shape>::Words;
  static constexpr int kStages = 3, kPacks = Shape::kPacks;
  static_assert(sizeof(Packed) == 16);

 public:
  static constexpr int kBytes = kStages * 3 * kPacks * kThreads * 16;
  __device__ SharedRows(const ResidualLayerNormBackward& k, int64_t row, int64_t step, void* memory)
      : k_(k), step_(step), own_(static_cast<Packed*>(memory) + threadIdx.x) {
    for (int ahead = 0; ahead + 1 < kStages; ++ahead, row += step) {
      start(row, ahead);
      statistics_[ahead] = statistics_of(k, row);
    }
  }

  __device__ BackwardRow<Shape> take(int64_t next) {
    // Into the stage that was read last.
    const int64_t row = next + (kStages - 2) * step_;
    start(row, stage_ == 0 ? kStages - 1 : stage_ - 1);
    copy_wait<kStages - 1>();
    BackwardRow<Shape> current;
    current.statistics = statistics_[0];
    statistics_[0] = statistics_[1];
    statistics_[1] = statistics_of(k_, row);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      current.x.words[p] = *place(stage_, 0, p);
      current.d_y.words[p] = *place(stage_, 1, p);
      if (k_.d_sum != nullptr) current.d_sum.words[p] = *place(stage_, 2, p);
    }
    stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    return current;
  }

 private:
  __device__ Packed* place(int stage, int operand, int pack) const {
    return own_ + ((stage * 3 + operand) * kPacks + pack) * kThreads;
  }
  __device__ void start(int64_t row, int stage) {
    if (row < k_.rows) {
      copy(k_.x, row, stage, 0);
      copy(k_.d_y, row, stage, 1);
      if (k_.d_sum != nullptr) copy(k_.d_sum, row, stage, 2);
    }
    copy_commit();
  }
  __device__ void copy(const void* base, int64_t row, int stage, int operand) {
    const auto* from = static_cast<const typename Shape::T*>(base) + row * k_.columns;
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (Shape::column(p) < k_.columns)
        copy_async(shared_address(place(stage, operand, p)), from + Shape::column(p), true);
  }

  const ResidualLayerNormBackward& k_;
  int64_t step_;
  Packed* own_;
  int stage_ = 0;
  float2 statistics_[kStages - 1];
};

template <typename L, typename Shape = typename L::Shape>
using BackwardRows = std::conditional_t<sizeof(typename Shape::T) == 2 && Shape::N == 8,
                                        SharedRows<Shape, L::kThreads>, RegisterRows<Shape>>;

/// Two sums over the threads of a row, in each of them. Successive rows alternate between two buffers, so
/// that one barrier per row is enough.
template <typename L>
__device__ inline float2 sum_pair(float2 x, int buffer) {
  constexpr int kGroup = L::Shape::kGroup;
  x.x = warp_sum(x.x);
  x.y = warp_sum(x.y);
  if constexpr (kGroup > 32) {
    constexpr int kWarps = kGroup / 32;
    __shared__ float2 of_groups[L::kGroups][2][kWarps];
    const int group = static_cast<int>(threadIdx.x) / kGroup;
    float2(&parts)[kWarps] = of_groups[group][buffer];
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32 % kWarps] = x;
    // The groups of a block may have different numbers of rows.
    asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(kGroup) : "memory");
    x = parts[0];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) {
      x.x += parts[warp].x;
      x.y += parts[warp].y;
    }
  }
  return x;
}

/// How many sums of a column are wanted: d_scale and d_offset, and maybe branch_sums.
__host__ __device__ inline int column_sums_of(const ResidualLayerNormBackward& k) {
  return k.branch_sums != nullptr ? 3 : 2;
}

/// A thread's sums of d_scale, d_offset and branch_sums.
template <typename L>
struct ColumnSums {
  using Shape = typename L::Shape;
  static constexpr int kColumns = Shape::kGroup * Shape::kPacks * Shape::N;
  static constexpr int kBytes = L::kGroups == 1 ? 0 : L::kGroups * 3 * kColumns * 4;
  float sums[3][Shape::kPacks][Shape::N] = {};

  /// Writes the block's part, of the first `count` sums. `memory`: kBytes of shared memory.
  __device__ void write(int count, int64_t columns, float* parts, float* memory) const {
    parts += static_cast<int64_t>(blockIdx.x) * count * columns;
    if constexpr (L::kGroups == 1) {
      write_own(count, columns, parts, columns);
    } else {
      __syncthreads();
      write_own(count, columns, memory + threadIdx.x / Shape::kGroup * (3 * kColumns), kColumns);
      __syncthreads();
      add_groups(count, columns, parts, memory);
    }
  }

 private:
  /// The sums lie `stride` columns apart.
  __device__ void write_own(int count, int64_t columns, float* target, int64_t stride) const {
#pragma unroll
    for (int which = 0; which < 3; ++which)
#pragma unroll
      for (int p = 0; p < Shape::kPacks; ++p)
        if (which < count && Shape::column(p) < columns)
          store(target + which * stride + Shape::column(p), sums[which][p]);
  }
  /// In the order of the groups.
  __device__ static void add_groups(int count, int64_t columns, float* parts, const float* memory) {
    for (int which = 0; which < count; ++which)
      for (int64_t i = threadIdx.x; i < columns; i += L::kThreads) {
        const float* sum = memory + which * kColumns + i;
        float total = sum[0];
#pragma unroll
        for (int group = 1; group < L::kGroups; ++group) total += sum[group * 3 * kColumns];
        parts[which * columns + i] = total;
      }
  }
};

/// Adds a row to the column sums; returns the means of g = d_y * scale and of g * normal.
template <typename L, typename Shape = typename L::Shape>
__device__ inline float2 gather_row(const ResidualLayerNormBackward& k, const BackwardRow<Shape>& in,
                                    int buffer, ColumnSums<L>& columns) {
  constexpr int N = Shape::N;
  float2 sums{0, 0};
#pragma unroll
  for (int p = 0; p < Shape::kPacks; ++p) {
    if (Shape::column(p) >= k.columns) continue;
    float scale[N];
    load(static_cast<const typename Shape::T*>(k.scale) + Shape::column(p), scale);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float normal = (in.x.at(p, i) - in.statistics.x) * in.statistics.y;
      const float d_y = in.d_y.at(p, i), g = d_y * scale[i];
      columns.sums[0][p][i] += d_y * normal;
      columns.sums[1][p][i] += d_y;
      sums.x += g;
      sums.y += g * normal;
    }
  }
  sums = sum_pair<L>(sums, buffer);
  return {sums.x / static_cast<float>(k.columns), sums.y / static_cast<float>(k.columns)};
}

template <bool kDrops, typename L, typename Shape = typename L::Shape>
__device__ inline void write_row(const ResidualLayerNormBackward& k, const BackwardRow<Shape>& in,
                                 int64_t row, float2 means, const DropoutFactors& factors,
                                 ColumnSums<L>& columns) {
  using T = typename Shape::T;
  constexpr int N = Shape::N;
#pragma unroll
  for (int p = 0; p < Shape::kPacks; ++p) {
    const int64_t column = Shape::column(p), element = row * k.columns + column;
    if (column >= k.columns) continue;
    float scale[N], d_x[N], old[N] = {};
    load(static_cast<const T*>(k.scale) + column, scale);
    if (k.accumulate_x) load(static_cast<const T*>(k.d_x) + element, old);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float normal = (in.x.at(p, i) - in.statistics.x) * in.statistics.y;
      const float g = in.d_y.at(p, i) * scale[i];
      d_x[i] = in.statistics.y * (g - means.x - normal * means.y) + old[i];
      if (k.d_sum != nullptr) d_x[i] += in.d_sum.at(p, i);
    }
    store(static_cast<T*>(k.d_x) + element, d_x);
    if (k.d_branch != nullptr) {
      if constexpr (kDrops) {
        float factor[N];
        factors.get(element, factor);
#pragma unroll
        for (int i = 0; i < N; ++i) d_x[i] = rounded<T>(d_x[i]) * factor[i];
      }
      store(static_cast<T*>(k.d_branch) + element, d_x);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) columns.sums[2][p][i] += d_x[i];
  }
}

/// LayerNorm of the row, computed as forward does.
template <typename Shape>
__device__ inline void write_normal(const ResidualLayerNormBackward& k, const BackwardRow<Shape>& in,
                                    int64_t row) {
  using T = typename Shape::T;
  constexpr int N = Shape::N;
#pragma unroll
  for (int p = 0; p < Shape::kPacks; ++p) {
    const int64_t column = Shape::column(p);
    if (column >= k.columns) continue;
    float scale[N], offset[N], y[N];
    load(static_cast<const T*>(k.scale) + column, scale);
    load(static_cast<const T*>(k.offset) + column, offset);
#pragma unroll
    for (int i = 0; i < N; ++i)
      y[i] = (in.x.at(p, i) - in.statistics.x) * in.statistics.y * scale[i] + offset[i];
    store(static_cast<T*>(k.y) + row * k.columns + column, y);
  }
}

template <typename L>
constexpr int kBackwardBytes = std::max(BackwardRows<L>::kBytes, ColumnSums<L>::kBytes);

/// kDrops: whether there is a dropout mask.
template <typename Shape, bool kDrops, typename L = BackwardLaunch<Shape, kDrops>>
__global__ void __launch_bounds__(L::kThreads, L::kBlocks)
    backward_kernel(ResidualLayerNormBackward k, float* parts) {
  start_after_earlier_kernels();
  extern __shared__ __align__(16) unsigned char memory[];
  const DropoutFactors factors(k.mask);
  const int64_t step = static_cast<int64_t>(gridDim.x) * L::kGroups;
  ColumnSums<L> columns;
  int64_t row = static_cast<int64_t>(blockIdx.x) * L::kGroups + threadIdx.x / Shape::kGroup;
  BackwardRows<L> rows(k, row, step, memory);
  for (int buffer = 0; row < k.rows; row += step, buffer = 1 - buffer) {
    const BackwardRow<Shape> current = rows.take(row + step);
    const float2 means = gather_row(k, current, buffer, columns);
    write_row<kDrops>(k, current, row, means, factors, columns);
    if (k.y != nullptr) write_normal(k, current, row);
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
  constexpr int kBytes = kBackwardBytes<L>;
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

void residual_layer_norm_backward(const Launch& launch, const ResidualLayerNormBackward& k) {
  const bool wants_parts = k.d_scale != nullptr || k.d_offset != nullptr || k.branch_sums != nullptr;
  float* parts = wants_parts ? static_cast<float*>(launch.workspace) : nullptr;
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
  if (!wants_parts) return;
  sum_parts(launch, {.parts = parts,
                     .count = blocks,
                     .stride = column_sums_of(k) * k.columns,
                     .columns = k.columns,
                     .target = {static_cast<float*>(k.d_scale), static_cast<float*>(k.d_offset),
                                static_cast<float*>(k.branch_sums)},
                     .accumulate = {k.accumulate_scale, k.accumulate_offset}});
}

}  // namespace perceiver::kernels::cuda
