// Parallel loops and type dispatch for the CPU kernels.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "base/dtype.h"

namespace perceiver::kernels::cpu {

/// Calls body(begin, end) on contiguous parts of [0, n), one per thread, none smaller than `grain`.
template <typename Body>
void parallel_for(int64_t n, int64_t grain, Body&& body) {
  const int64_t parts =
      std::min<int64_t>(omp_get_max_threads(), (n + grain - 1) / std::max<int64_t>(grain, 1));
  if (parts <= 1) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static, 1)
  for (int64_t part = 0; part < parts; ++part) body(n * part / parts, n * (part + 1) / parts);
}

/// Calls body(item) for each of n unequal items, scheduled dynamically one by one.
template <typename Body>
void parallel_items(int64_t n, Body&& body) {
#pragma omp parallel for schedule(dynamic, 1) if (n > 1)
  for (int64_t item = 0; item < n; ++item) body(item);
}

/// Calls body.template operator()<T>() with T = float or double.
template <typename Body>
void with_type(DType type, Body&& body) {
  if (type == DType::f64) {
    body.template operator()<double>();
  } else {
    body.template operator()<float>();
  }
}

/// Sums over rows have this many parts for any number of threads, so that they round the same everywhere.
inline constexpr int64_t kReductionParts = 32;

}  // namespace perceiver::kernels::cpu
