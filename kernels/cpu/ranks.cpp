#include "kernels/ranks.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/parallel.h"

namespace perceiver::kernels::cpu {
namespace {

template <typename T>
void sum_part(const SumPieces& k, int64_t first, int64_t elements) {
  T* target = static_cast<T*>(k.sum) + first;
  const T* other = static_cast<const T*>(k.others) + first;
  for (int64_t i = 0; i < elements; ++i) {
    T total = 0;
    for (int64_t piece = 0; piece < k.count; ++piece) {
      const int64_t place = piece < k.own ? piece : piece - 1;
      const T value = piece == k.own ? target[i] : other[place * k.elements + i];
      total = piece == 0 ? value : total + value;
    }
    target[i] = total;
  }
}

}  // namespace

void shared_loss_scale(const SharedLossScale& k) {
  k.scalars->loss_scale = k.mean ? 1 / std::max(1.0, *k.targets) : 1 / k.sharing;
}

void pack_totals(const PackTotals& k) {
  std::copy_n(k.loss_totals, 5, k.totals);
  k.totals[5] = 0;
  for (int64_t i = 0; i < k.count; ++i) k.totals[5] += k.squared_norms[i];
}

void sum_pieces(const SumPieces& k) {
  PERCEIVER_ASSERT(k.type == DType::f32 || k.type == DType::f64);
  parallel_for(k.elements, 16384, [&](int64_t begin, int64_t end) {
    if (k.type == DType::f32) {
      sum_part<float>(k, begin, end - begin);
    } else {
      sum_part<double>(k, begin, end - begin);
    }
  });
}

}  // namespace perceiver::kernels::cpu
