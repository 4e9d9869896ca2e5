// Parallel loops and type dispatch for the CPU kernels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/check.h"
#include "base/worker_pool.h"
#include "perceiver/experimental/dtype.h"

namespace perceiver::kernels::cpu {

/// Parts of a loop per thread: a thread that loses its processor for a while leaves its share to the others.
inline constexpr int64_t kPartsPerThread = 4;

/// Threads that share the loops of the calling thread.
inline int64_t loop_threads() {
  const WorkerPool* pool = WorkerPool::current();
  return pool == nullptr ? 1 : pool->threads();
}

/// Calls body(item) for each of n unequal items.
template <typename Body>
void parallel_items(int64_t n, Body&& body) {
  if (WorkerPool* pool = WorkerPool::current()) return pool->run(n, body);
  for (int64_t item = 0; item < n; ++item) body(item);
}

/// Calls body(begin, end) on contiguous parts of [0, n), none smaller than `grain` unless n is.
template <typename Body>
void parallel_for(int64_t n, int64_t grain, Body&& body) {
  const int64_t threads = loop_threads();
  const int64_t most = threads == 1 ? 1 : threads * kPartsPerThread;
  const int64_t parts = std::min(most, (n + grain - 1) / std::max<int64_t>(grain, 1));
  if (parts <= 1) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  parallel_items(parts, [&](int64_t part) { body(n * part / parts, n * (part + 1) / parts); });
}

/// Calls body.template operator()<T>() with T = float or double.
template <typename Body>
void with_type(DType type, Body&& body) {
  if (type == DType::f64) {
    body.template operator()<double>();
  } else {
    PERCEIVER_ASSERT(type == DType::f32);
    body.template operator()<float>();
  }
}

/// Sums over rows have this many parts for any number of threads, so that they round the same everywhere.
inline constexpr int64_t kReductionParts = 32;

}  // namespace perceiver::kernels::cpu
