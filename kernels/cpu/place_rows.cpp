// Rows that replace rows of another matrix, and the way back.
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"
#include "kernels/embedding.h"

namespace perceiver::kernels::cpu {
namespace {

template <typename T>
void place(const PlaceRows& k) {
  parallel_for(k.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (k.row[r] < 0) continue;
      Row<T>(static_cast<T*>(k.target) + k.row[r] * k.columns, k.columns) =
          ConstRow<T>(static_cast<const T*>(k.x) + r * k.columns, k.columns);
    }
  });
}

template <typename T>
void take_row(const TakeRows& k, int64_t r) {
  T* x = static_cast<T*>(k.d_x);
  if (x != nullptr) x += r * k.columns;
  if (k.row[r] < 0) {
    if (x != nullptr && !k.accumulate) Row<T>(x, k.columns).setZero();
    return;
  }
  Row<T> source(static_cast<T*>(k.d_target) + k.row[r] * k.columns, k.columns);
  if (x != nullptr && k.accumulate) Row<T>(x, k.columns) += source;
  if (x != nullptr && !k.accumulate) Row<T>(x, k.columns) = source;
  source.setZero();
}

template <typename T>
void take(const TakeRows& k) {
  parallel_for(k.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) take_row<T>(k, r);
  });
}

}  // namespace

void place_rows(const PlaceRows& k) {
  with_type(k.type, [&]<typename T>() { place<T>(k); });
}
void take_rows(const TakeRows& k) {
  with_type(k.type, [&]<typename T>() { take<T>(k); });
}

}  // namespace perceiver::kernels::cpu
