// What the kernels of LayerNorm's backward share (layer_norm.cu): the rows that a group of threads takes, on
// their way from memory ahead of their use, the computation of one, and the sums of the parameters'
// gradients.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/norm/layer_norm.cuh"
#include "kernels/cuda/support/column_sums.cuh"

namespace perceiver::kernels::cuda {

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

/// The rows of a group of threads: every `step`-th.
class StridedRows {
 public:
  __device__ StridedRows(int64_t first, int64_t step) : row_(first), step_(step) {}
  __device__ int64_t row() const { return row_; }
  __device__ void advance() { row_ += step_; }

 private:
  int64_t row_, step_;
};

/// The rows of a thread, one ahead in registers.
template <typename Shape, typename Sequence>
class RegisterRows {
 public:
  static constexpr int kBytes = 0;
  __device__ RegisterRows(const ResidualLayerNormBackward& k, const Sequence& rows, void*)
      : k_(k), ahead_(rows) {
    load();
  }

  /// The first row of the sequence, then each next one.
  __device__ BackwardRow<Shape> take() {
    const BackwardRow<Shape> current = next_;
    load();
    return current;
  }

 private:
  __device__ void load() {
    const int64_t row = ahead_.row();
    ahead_.advance();
    if (row >= k_.rows) return;
    next_.x.load(k_.x, row, k_.columns);
    next_.d_y.load(k_.d_y, row, k_.columns);
    if (k_.d_sum != nullptr) next_.d_sum.load(k_.d_sum, row, k_.columns);
    next_.statistics = statistics_of(k_, row);
  }

  const ResidualLayerNormBackward& k_;
  Sequence ahead_;
  BackwardRow<Shape> next_;
};

/// The rows of a thread, two ahead in shared memory: [stage, operand, pack, thread] of 16 bytes.
template <typename Shape, typename Sequence, int kThreads>
class SharedRows {
  using Packed = typename Share<Shape>::Words;
  static constexpr int kStages = 3, kPacks = Shape::kPacks;
  static_assert(sizeof(Packed) == 16);

 public:
  static constexpr int kBytes = kStages * 3 * kPacks * kThreads * 16;
  __device__ SharedRows(const ResidualLayerNormBackward& k, const Sequence& rows, void* memory)
      : k_(k), ahead_(rows), own_(static_cast<Packed*>(memory) + threadIdx.x) {
    for (int stage = 0; stage + 1 < kStages; ++stage) statistics_[stage] = start(stage);
  }

  /// As that of RegisterRows.
  __device__ BackwardRow<Shape> take() {
    // Into the stage that was read last.
    const float2 started = start(stage_ == 0 ? kStages - 1 : stage_ - 1);
    copy_wait<kStages - 1>();
    BackwardRow<Shape> current;
    current.statistics = statistics_[0];
    statistics_[0] = statistics_[1];
    statistics_[1] = started;
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
  /// Starts to copy the next row; returns its statistics.
  __device__ float2 start(int stage) {
    const int64_t row = ahead_.row();
    ahead_.advance();
    if (row < k_.rows) {
      copy(k_.x, row, stage, 0);
      copy(k_.d_y, row, stage, 1);
      if (k_.d_sum != nullptr) copy(k_.d_sum, row, stage, 2);
    }
    copy_commit();
    return statistics_of(k_, row);
  }
  __device__ void copy(const void* base, int64_t row, int stage, int operand) {
    const auto* from = static_cast<const typename Shape::T*>(base) + row * k_.columns;
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (Shape::column(p) < k_.columns)
        copy_async(shared_address(place(stage, operand, p)), from + Shape::column(p), true);
  }

  const ResidualLayerNormBackward& k_;
  Sequence ahead_;
  Packed* own_;
  int stage_ = 0;
  float2 statistics_[kStages - 1];
};

template <typename L, typename Sequence, typename Shape = typename L::Shape>
using BackwardRows =
    std::conditional_t<sizeof(typename Shape::T) == 2 && Shape::N == 8,
                       SharedRows<Shape, Sequence, L::kThreads>, RegisterRows<Shape, Sequence>>;

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

/// A gradient that is added to what is there reads that ahead like the other operands: a row is read by the
/// threads that write it later.
inline ResidualLayerNormBackward adding_ahead(ResidualLayerNormBackward k) {
  if (!k.accumulate_x || k.d_sum != nullptr) return k;
  k.d_sum = k.d_x;
  k.accumulate_x = false;
  return k;
}

/// Where blocks leave their parts of these; null: none is wanted.
inline float* parts_of_backward(const Launch& launch, const ResidualLayerNormBackward& k) {
  const bool wanted = k.d_scale != nullptr || k.d_offset != nullptr || k.branch_sums != nullptr;
  return wanted ? static_cast<float*>(launch.workspace) : nullptr;
}

inline void sum_parts_of_backward(const Launch& launch, const ResidualLayerNormBackward& k,
                                  const float* parts, int64_t count) {
  if (parts == nullptr) return;
  sum_parts(launch, {.parts = parts,
                     .count = count,
                     .stride = column_sums_of(k) * k.columns,
                     .columns = k.columns,
                     .target = {static_cast<float*>(k.d_scale), static_cast<float*>(k.d_offset),
                                static_cast<float*>(k.branch_sums)},
                     .accumulate = {k.accumulate_scale, k.accumulate_offset}});
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

/// Calls finish(p, d) with each pack of the branch's gradient, not rounded.
template <bool kDrops, typename L, typename Finish, typename Shape = typename L::Shape>
__device__ inline void write_row(const ResidualLayerNormBackward& k, const BackwardRow<Shape>& in,
                                 int64_t row, float2 means, const DropoutFactors& factors,
                                 ColumnSums<L>& columns, Finish&& finish) {
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
    finish(p, d_x);
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

/// Of the rows, whose place the sums take at the end.
template <typename L, typename Sequence>
inline constexpr int kBackwardBytes = std::max(BackwardRows<L, Sequence>::kBytes, ColumnSums<L>::kBytes);

}  // namespace perceiver::kernels::cuda
