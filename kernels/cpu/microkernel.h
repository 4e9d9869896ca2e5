// Small dense products on one thread, for the attention tiles: C [rows, columns] (+)= A [rows, k] · B [k,
// columns].
//
// Register tile: kTileRows rows by kTileVectors vectors of C (24 of 32 registers with AVX-512, 12 of 16 with
// AVX2). A is read one broadcast element at a time, so it may have any strides (a transposed A is free);
// B and C are row-major.
#pragma once

#include <cstdint>
#include <cstring>

namespace perceiver::kernels::cpu {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64, kTileVectors = 4, kTileRows = 6;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32, kTileVectors = 2, kTileRows = 6;
#else
inline constexpr int kVectorBytes = 16, kTileVectors = 2, kTileRows = 6;
#endif

/// A matrix operand read by element: (row, column) is at data + row * row_stride + column * column_stride.
template <typename T>
struct Strided {
  const T* data;
  int64_t row_stride, column_stride;
};

template <typename T, int Rows, int Vectors>
inline void multiply_tile(int64_t depth, Strided<T> a, const T* b, int64_t ldb, T* c, int64_t ldc,
                          bool accumulate) {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
  Vector sum[Rows][Vectors] = {};
  for (int64_t i = 0; i < depth; ++i) {
    Vector row[Vectors];
    for (int v = 0; v < Vectors; ++v) std::memcpy(&row[v], b + i * ldb + v * kLanes, sizeof(Vector));
    for (int r = 0; r < Rows; ++r) {
      const T factor = a.data[r * a.row_stride + i * a.column_stride];
      for (int v = 0; v < Vectors; ++v) sum[r][v] += factor * row[v];
    }
  }
  // Not unrolled, the sums would go to the stack first.
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      T* target = c + r * ldc + v * kLanes;
      if (accumulate) {
        Vector old;
        std::memcpy(&old, target, sizeof(Vector));
        sum[r][v] += old;
      }
      std::memcpy(target, &sum[r][v], sizeof(Vector));
    }
  }
}

/// Columns that do not fill a vector.
template <typename T>
void multiply_tail(int64_t rows, int64_t columns, int64_t depth, Strided<T> a, const T* b, int64_t ldb, T* c,
                   int64_t ldc, bool accumulate) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      T sum = accumulate ? c[r * ldc + j] : T(0);
      for (int64_t i = 0; i < depth; ++i)
        sum += a.data[r * a.row_stride + i * a.column_stride] * b[i * ldb + j];
      c[r * ldc + j] = sum;
    }
  }
}

template <typename T, int Vectors>
void multiply_panel(int64_t rows, int64_t depth, Strided<T> a, const T* b, int64_t ldb, T* c, int64_t ldc,
                    bool accumulate) {
  int64_t r = 0;
  const auto at = [&](int64_t row) {
    return Strided<T>{a.data + row * a.row_stride, a.row_stride, a.column_stride};
  };
  for (; r + kTileRows <= rows; r += kTileRows)
    multiply_tile<T, kTileRows, Vectors>(depth, at(r), b, ldb, c + r * ldc, ldc, accumulate);
  if (r + 4 <= rows) {
    multiply_tile<T, 4, Vectors>(depth, at(r), b, ldb, c + r * ldc, ldc, accumulate);
    r += 4;
  }
  if (r + 2 <= rows) {
    multiply_tile<T, 2, Vectors>(depth, at(r), b, ldb, c + r * ldc, ldc, accumulate);
    r += 2;
  }
  if (r < rows) multiply_tile<T, 1, Vectors>(depth, at(r), b, ldb, c + r * ldc, ldc, accumulate);
}

template <typename T>
void multiply(int64_t rows, int64_t columns, int64_t depth, Strided<T> a, const T* b, int64_t ldb, T* c,
              int64_t ldc, bool accumulate) {
  constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));
  int64_t j = 0;
  for (; j + kTileVectors * kLanes <= columns; j += kTileVectors * kLanes)
    multiply_panel<T, kTileVectors>(rows, depth, a, b + j, ldb, c + j, ldc, accumulate);
  for (; j + kLanes <= columns; j += kLanes)
    multiply_panel<T, 1>(rows, depth, a, b + j, ldb, c + j, ldc, accumulate);
  if (j < columns) multiply_tail(rows, columns - j, depth, a, b + j, ldb, c + j, ldc, accumulate);
}

}  // namespace perceiver::kernels::cpu
