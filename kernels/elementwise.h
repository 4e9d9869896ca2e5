// Flat arrays: sums, casts, checks. Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

/// target += source, elementwise.
struct Add {
  DType type;
  int64_t elements;
  const void* source;
  void* target;
};

/// *count = number of NaN and infinite elements.
struct CountNonFinite {
  DType type;
  int64_t elements;
  const void* x;
  int64_t* count;
};

/// *sum = sum of squares in f64, in a fixed order.
struct SumOfSquares {
  DType type;
  int64_t elements;
  const void* x;
  double* sum;
};

/// y = x, elementwise, rounded to `to`; y and x do not overlap. On a GPU also from or to e4m3, clamped to
/// 448.
struct Cast {
  DType from, to;
  int64_t elements;
  const void* x;
  void* y;
};

/// y = factor * x, elementwise, in the accumulation type, rounded to `to` once; y may be x, if they have the
/// same type.
struct Scale {
  DType from, to;
  int64_t elements;
  double factor;
  const void* x;
  void* y;
};

/// Swaps the contents of two arrays that do not overlap.
struct Swap {
  DType type;
  int64_t elements;
  void* a;
  void* b;
};

PERCEIVER_KERNEL(add, Add)
PERCEIVER_KERNEL(count_non_finite, CountNonFinite)
PERCEIVER_KERNEL(sum_of_squares, SumOfSquares)
PERCEIVER_KERNEL(cast, Cast)
PERCEIVER_KERNEL(scale, Scale)
PERCEIVER_KERNEL(swap, Swap)

}  // namespace perceiver::kernels
