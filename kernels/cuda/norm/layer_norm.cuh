// What the kernels of LayerNorm's forward share: how a row is divided among threads, and the computation of
// one.
#pragma once

#include <bit>
#include <type_traits>

#include "kernels/cuda/norm/dropout.cuh"
#include "kernels/cuda/support/constants.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/norm.h"

namespace perceiver::kernels::cuda {

/// How a row is divided: among kGroup threads, each with kPacks vectors of N elements, kGroup * N apart.
template <typename Type, int kWidth, int kGroupThreads, int kElements>
struct RowShape {
  using T = Type;
  static constexpr int N = kWidth;
  static constexpr int kGroup = kGroupThreads;
  static constexpr int kPacks = kElements / kWidth;
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kGroup; }
  __device__ static int64_t column(int pack) { return (pack * kGroup + lane()) * N; }
  __device__ static float sum(float x) {
    if constexpr (kGroup == 32) {
      return warp_sum(x);
    } else {
      return block_sum<kGroup>(x);
    }
  }
};

/// A thread's share of a row, in the element type.
template <typename Shape>
struct Share {
  using T = typename Shape::T;
  using Packed = Pack<T, Shape::N>;
  // Not Packed where that is of 16 bytes: elements of 16 bits, loaded under a condition, would take a
  // register each.
  using Words = std::conditional_t<sizeof(Packed) == 16, uint4, Packed>;
  Words words[Shape::kPacks];

  __device__ void load(const void* base, int64_t row, int64_t columns) {
    const T* from = static_cast<const T*>(base) + row * columns;
#pragma unroll
    for (int p = 0; p < Shape::kPacks; ++p)
      if (Shape::column(p) < columns) words[p] = *reinterpret_cast<const Words*>(from + Shape::column(p));
  }
  __device__ Packed pack(int p) const {
    return std::bit_cast<Packed>(words[p]);
  }
  /// Element i of pack p.
  __device__ float at(int p, int i) const {
    return to_float(pack(p).x[i]);
  }
};

/// What forward reads of a row.
template <typename Shape>
struct ForwardRow {
  Share<Shape> residual, branch;

  __device__ void load(const ResidualLayerNorm& k, int64_t row) {
    if (k.residual != nullptr) residual.load(k.residual, row, k.columns);
    if (k.branch != nullptr) branch.load(k.branch, row, k.columns);
  }
};

/// A thread's share of a row of `sum`, in f32; 0 past the last column.
template <typename Shape>
using RowValues = float[Shape::kPacks][Shape::N];

/// x = residual + dropout(branch), which is also written where there is a branch. Returns the sum of x.
template <typename Shape>
__device__ inline float add_row(const ResidualLayerNorm& k, const ForwardRow<Shape>& in, int64_t row,
                                const DropoutFactors& factors, RowValues<Shape>& x) {
  using T = typename Shape::T;
  constexpr int N = Shape::N;
  float sum = 0;
#pragma unroll
  for (int p = 0; p < Shape::kPacks; ++p) {
    const int64_t column = Shape::column(p);
#pragma unroll
    for (int i = 0; i < N; ++i) x[p][i] = 0;
    if (column >= k.columns) continue;
    if (k.residual != nullptr) unpack(in.residual.pack(p), x[p]);
    if (k.branch != nullptr) {
      float factor[N];
      factors.get(row * k.columns + column, factor);
      // Statistics are those of the sum as stored, which backward reads.
#pragma unroll
      for (int i = 0; i < N; ++i) x[p][i] = rounded<T>(x[p][i] + in.branch.at(p, i) * factor[i]);
      store(static_cast<T*>(k.sum) + row * k.columns + column, x[p]);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sum += x[p][i];
  }
  return sum;
}

/// Calls finish(p, y) with each pack of y = LayerNorm(x); writes the statistics. `sum`: the thread's, of x.
template <typename Shape, typename Finish>
__device__ inline void normalise_row(const ResidualLayerNorm& k, int64_t row, float sum, RowValues<Shape>& x,
                                     Finish&& finish) {
  using T = typename Shape::T;
  constexpr int N = Shape::N, kPacks = Shape::kPacks;
  const float mean = Shape::sum(sum) / static_cast<float>(k.columns);
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (Shape::column(p) >= k.columns) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) squares += (x[p][i] - mean) * (x[p][i] - mean);
  }
  const float rstd = 1 / sqrtf(Shape::sum(squares) / static_cast<float>(k.columns) + kNormEpsilon);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int64_t column = Shape::column(p);
    if (column >= k.columns) continue;
    float scale[N], offset[N];
    load(static_cast<const T*>(k.scale) + column, scale);
    load(static_cast<const T*>(k.offset) + column, offset);
#pragma unroll
    for (int i = 0; i < N; ++i) x[p][i] = (x[p][i] - mean) * rstd * scale[i] + offset[i];
    finish(p, x[p]);
  }
  if (Shape::lane() == 0) {
    static_cast<float*>(k.mean)[row] = mean;
    static_cast<float*>(k.rstd)[row] = rstd;
  }
}

}  // namespace perceiver::kernels::cuda
