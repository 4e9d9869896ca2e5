// Flat arrays: add, cast, scale, swap, sums and checks.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"
#include "kernels/elementwise.h"

namespace perceiver::kernels::cpu {
namespace {

template <typename T>
int64_t non_finite(const CountNonFinite& k) {
  const T* x = static_cast<const T*>(k.x);
  std::atomic<int64_t> count = 0;
  parallel_for(k.elements, 16384, [&](int64_t begin, int64_t end) {
    int64_t part = 0;
    for (int64_t i = begin; i < end; ++i) part += !std::isfinite(x[i]);
    count += part;
  });
  return count;
}

template <typename T>
double squares(const SumOfSquares& k) {
  double parts[kReductionParts];
  parallel_for(kReductionParts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = k.elements * part / kReductionParts,
                    last = k.elements * (part + 1) / kReductionParts;
      parts[part] = ConstRow<T>(static_cast<const T*>(k.x) + first, last - first)
                        .template cast<double>()
                        .square()
                        .sum();
    }
  });
  double sum = 0;
  for (double part : parts) sum += part;
  return sum;
}

}  // namespace

void add(const Add& k) {
  with_type(k.type, [&]<typename T>() {
    parallel_for(k.elements, 16384, [&](int64_t begin, int64_t end) {
      Row<T>(static_cast<T*>(k.target) + begin, end - begin) +=
          ConstRow<T>(static_cast<const T*>(k.source) + begin, end - begin);
    });
  });
}

namespace {

template <typename Body>
void with_stored_type(DType type, Body&& body) {
  if (type == DType::bf16) return body.template operator()<Eigen::bfloat16>();
  with_type(type, body);
}

}  // namespace

void cast(const Cast& k) {
  PERCEIVER_ASSERT(k.from != DType::f64 || k.to != DType::bf16);  // which Eigen rounds twice
  with_stored_type(k.from, [&]<typename From>() {
    with_stored_type(k.to, [&]<typename To>() {
      parallel_for(k.elements, 16384, [&](int64_t begin, int64_t end) {
        Row<To>(static_cast<To*>(k.y) + begin, end - begin) =
            ConstRow<From>(static_cast<const From*>(k.x) + begin, end - begin).template cast<To>();
      });
    });
  });
}

void scale(const Scale& k) {
  with_type(k.from, [&]<typename From>() {
    with_type(k.to, [&]<typename To>() {
      parallel_for(k.elements, 16384, [&](int64_t begin, int64_t end) {
        const From* x = static_cast<const From*>(k.x);
        To* y = static_cast<To*>(k.y);
        for (int64_t i = begin; i < end; ++i) y[i] = static_cast<To>(static_cast<From>(k.factor) * x[i]);
      });
    });
  });
}

void count_non_finite(const CountNonFinite& k) {
  with_type(k.type, [&]<typename T>() { *k.count = non_finite<T>(k); });
}

void sum_of_squares(const SumOfSquares& k) {
  with_type(k.type, [&]<typename T>() { *k.sum = squares<T>(k); });
}

void swap(const Swap& k) {
  with_type(k.type, [&]<typename T>() {
    parallel_for(k.elements, 16384, [&](int64_t begin, int64_t end) {
      T* a = static_cast<T*>(k.a);
      std::swap_ranges(a + begin, a + end, static_cast<T*>(k.b) + begin);
    });
  });
}

}  // namespace perceiver::kernels::cpu
