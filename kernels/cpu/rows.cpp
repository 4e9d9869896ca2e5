// Several latents per position (docs/model.md, "Aligned latents"): repeating rows with an index encoding, and
// averaging them.
#include <Eigen/Core>

#include "kernels/cpu/parallel.h"
#include "kernels/embedding.h"

namespace perceiver::kernels::cpu {
namespace {

template <typename T>
using Matrix = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
template <typename T>
using ConstMatrix = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

template <typename T>
const T* group(const void* base, int64_t r, int64_t copies, int64_t columns) {
  return static_cast<const T*>(base) + r * copies * columns;
}

template <typename T>
void repeat(const RepeatRows& k) {
  const ConstMatrix<T> x(static_cast<const T*>(k.x), k.rows, k.columns),
      encoding(static_cast<const T*>(k.encoding), k.copies, k.columns);
  parallel_for(k.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      Matrix<T> y(static_cast<T*>(k.y) + r * k.copies * k.columns, k.copies, k.columns);
      y = encoding.rowwise() + x.row(r);
    }
  });
}

template <typename T>
void repeat_backward(const RepeatRowsBackward& k) {
  if (k.d_x != nullptr) {
    Matrix<T> d_x(static_cast<T*>(k.d_x), k.rows, k.columns);
    if (!k.accumulate_x) d_x.setZero();
    for (int64_t r = 0; r < k.rows; ++r)
      d_x.row(r) +=
          ConstMatrix<T>(group<T>(k.d_y, r, k.copies, k.columns), k.copies, k.columns).colwise().sum();
  }
  if (k.d_encoding == nullptr) return;
  Matrix<T> d_encoding(static_cast<T*>(k.d_encoding), k.copies, k.columns);
  if (!k.accumulate_encoding) d_encoding.setZero();
  for (int64_t r = 0; r < k.rows; ++r)
    d_encoding += ConstMatrix<T>(group<T>(k.d_y, r, k.copies, k.columns), k.copies, k.columns);
}

template <typename T>
void average(const AverageRows& k) {
  Matrix<T> y(static_cast<T*>(k.y), k.rows, k.columns);
  for (int64_t r = 0; r < k.rows; ++r)
    y.row(r) = ConstMatrix<T>(group<T>(k.x, r, k.copies, k.columns), k.copies, k.columns).colwise().sum() /
               T(k.copies);
}

template <typename T>
void average_backward(const AverageRowsBackward& k) {
  const ConstMatrix<T> d_y(static_cast<const T*>(k.d_y), k.rows, k.columns);
  for (int64_t r = 0; r < k.rows; ++r) {
    Matrix<T> d_x(static_cast<T*>(k.d_x) + r * k.copies * k.columns, k.copies, k.columns);
    if (!k.accumulate) d_x.setZero();
    d_x.rowwise() += d_y.row(r) / T(k.copies);
  }
}

}  // namespace

void repeat_rows(const RepeatRows& k) {
  with_type(k.type, [&]<typename T>() { repeat<T>(k); });
}
void repeat_rows_backward(const RepeatRowsBackward& k) {
  with_type(k.type, [&]<typename T>() { repeat_backward<T>(k); });
}
void average_rows(const AverageRows& k) {
  with_type(k.type, [&]<typename T>() { average<T>(k); });
}
void average_rows_backward(const AverageRowsBackward& k) {
  with_type(k.type, [&]<typename T>() { average_backward<T>(k); });
}

}  // namespace perceiver::kernels::cpu
