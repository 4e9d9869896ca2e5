// Residual addition with dropout, and LayerNorm, in one pass over each row.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/dropout.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"
#include "kernels/cpu/scratch.h"
#include "kernels/norm.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr double kEpsilon = 1e-5;

struct FactorTag;
struct SumTag;

/// sum = residual + dropout(branch) for one row.
template <typename T>
void add_row(const ResidualLayerNorm& k, int64_t r, T* factors) {
  Row<T> sum(static_cast<T*>(k.sum) + r * k.columns, k.columns);
  const ConstRow<T> branch(static_cast<const T*>(k.branch) + r * k.columns, k.columns);
  if (k.mask.threshold > 0) {
    dropout_factors(k.mask, r * k.columns, k.columns, factors);
    sum = branch * Row<T>(factors, k.columns);
  } else {
    sum = branch;
  }
  if (k.residual != nullptr) sum += ConstRow<T>(static_cast<const T*>(k.residual) + r * k.columns, k.columns);
}

/// y of one row. Not inlined, so that forward and backward round alike.
template <typename T>
[[gnu::noinline]] void normalise_row(const T* x, T mean, T rstd, const T* scale, const void* offset,
                                     int64_t columns, T* y) {
  Row<T>(y, columns) = (ConstRow<T>(x, columns) - mean) * rstd * ConstRow<T>(scale, columns) +
                       ConstRow<T>(static_cast<const T*>(offset), columns);
}

template <typename T>
void forward(const ResidualLayerNorm& k) {
  const T* input = static_cast<const T*>(k.branch != nullptr ? k.sum : k.residual);
  parallel_for(k.rows, 16, [&](int64_t begin, int64_t end) {
    T* factors = scratch<FactorTag, T>(static_cast<size_t>(k.columns));
    for (int64_t r = begin; r < end; ++r) {
      if (k.branch != nullptr) add_row<T>(k, r, factors);
      if (k.y == nullptr) continue;
      const ConstRow<T> x(input + r * k.columns, k.columns);
      const T mean = x.mean();
      const T rstd = T(1) / std::sqrt((x - mean).square().mean() + T(kEpsilon));
      normalise_row(input + r * k.columns, mean, rstd, static_cast<const T*>(k.scale), k.offset, k.columns,
                    static_cast<T*>(k.y) + r * k.columns);
      static_cast<T*>(k.mean)[r] = mean;
      static_cast<T*>(k.rstd)[r] = rstd;
    }
  });
}

template <typename T>
void backward_row(const ResidualLayerNormBackward& k, int64_t r, const ConstRow<T>& scale, Row<T> d_scale,
                  Row<T> d_offset, Row<T> branch_sums, T* work) {
  const int64_t columns = k.columns;
  const ConstRow<T> x(static_cast<const T*>(k.x) + r * columns, columns);
  const ConstRow<T> d_y(static_cast<const T*>(k.d_y) + r * columns, columns);
  const T mean = static_cast<const T*>(k.mean)[r], rstd = static_cast<const T*>(k.rstd)[r];
  Row<T> normal(work, columns), g(work + columns, columns);
  normal = (x - mean) * rstd;
  if (k.y != nullptr)
    normalise_row(x.data(), mean, rstd, scale.data(), k.offset, columns, static_cast<T*>(k.y) + r * columns);
  g = d_y * scale;
  d_scale += d_y * normal;
  d_offset += d_y;
  const T mean_g = g.mean(), mean_gn = (g * normal).mean();
  g = rstd * (g - mean_g - normal * mean_gn);
  if (k.d_sum != nullptr) g += ConstRow<T>(static_cast<const T*>(k.d_sum) + r * columns, columns);
  Row<T> d_x(static_cast<T*>(k.d_x) + r * columns, columns);
  if (k.accumulate_x) {
    d_x += g;
  } else {
    d_x = g;
  }
  Row<T> d_branch(static_cast<T*>(k.d_branch != nullptr ? k.d_branch : k.d_x) + r * columns, columns);
  if (k.d_branch != nullptr) {
    dropout_factors(k.mask, r * columns, columns, normal.data());
    d_branch = d_x * normal;
  }
  if (k.branch_sums != nullptr) branch_sums += d_branch;
}

constexpr int64_t kRowSums = 3;  // d_scale, d_offset, branch_sums

template <typename T>
void finish(const T* sums, int64_t columns, int64_t offset, void* target, bool accumulate) {
  if (target == nullptr) return;
  Row<T> total(static_cast<T*>(target), columns);
  if (!accumulate) total.setZero();
  for (int64_t part = 0; part < kReductionParts; ++part)
    total += ConstRow<T>(sums + part * kRowSums * columns + offset, columns);
}

template <typename T>
void backward(const ResidualLayerNormBackward& k) {
  const int64_t columns = k.columns;
  const ConstRow<T> scale(static_cast<const T*>(k.scale), columns);
  T* sums = scratch<SumTag, T>(static_cast<size_t>(kReductionParts * kRowSums * columns));
  parallel_for(kReductionParts, 1, [&](int64_t begin, int64_t end) {
    T* work = scratch<FactorTag, T>(static_cast<size_t>(2 * columns));
    for (int64_t part = begin; part < end; ++part) {
      T* const own = sums + part * kRowSums * columns;
      Row<T> d_scale(own, columns), d_offset(own + columns, columns), branch_sums(own + 2 * columns, columns);
      d_scale.setZero();
      d_offset.setZero();
      branch_sums.setZero();
      for (int64_t r = k.rows * part / kReductionParts; r < k.rows * (part + 1) / kReductionParts; ++r)
        backward_row<T>(k, r, scale, d_scale, d_offset, branch_sums, work);
    }
  });
  finish(sums, columns, 0, k.d_scale, k.accumulate_scale);
  finish(sums, columns, columns, k.d_offset, k.accumulate_offset);
  finish(sums, columns, 2 * columns, k.branch_sums, false);
}

}  // namespace

void residual_layer_norm(const ResidualLayerNorm& k) {
  with_type(k.type, [&]<typename T>() { forward<T>(k); });
}

void residual_layer_norm_backward(const ResidualLayerNormBackward& k) {
  with_type(k.type, [&]<typename T>() { backward<T>(k); });
}

}  // namespace perceiver::kernels::cpu
