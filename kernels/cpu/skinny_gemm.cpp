// Products of few rows with a large matrix: bound by reading the matrix, which is read once for all rows
// (skinny_tiles.h).
//
// An element is a sum over the vectors of `depth` in order, in one accumulator, then over the lanes and the
// tail; tiles (rows x columns in registers) only decide what is computed together. bf16 weights are converted
// to f32 as they are loaded; i8 weights: int8_skinny_gemm.cpp.
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "base/check.h"
#include "kernels/cpu/int8_skinny_gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/skinny_tiles.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cpu {
namespace {

/// Of a tile of four rows: 4 x 3 sums, weights and activations fill 16 registers. 4 x 4 sums go to the stack
/// and back at every step there; with 4 x 2 too few rows of weights are on their way from memory.
constexpr int kColumns = kVectorRegisters == 32 ? 4 : 3;
constexpr int64_t kTaskBytes = 1 << 15;

/// out[r, c] for a tile; x, weight and out point at its first row and column.
template <typename T, typename W, int Rows, int Columns>
void tile(const SkinnyGemm& k, const T* x, const W* weight, const T* bias, T* out) {
  constexpr int64_t kLanes = Lanes<T>::kCount;
  typename Lanes<T>::Vector sum[Rows][Columns] = {};
  const int64_t whole = k.depth / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    typename Lanes<T>::Vector w[Columns];
    for (int c = 0; c < Columns; ++c) {
      const W* from = weight + c * k.depth + i;
      w[c] = load_widened(from);
      // The rows are too short for the hardware prefetcher: prefetch the next tile's into L2. A single row of
      // activations reads eight rows of f32 at once, which keeps memory busy without.
      if constexpr (Rows > 1 || std::is_same_v<W, Bf16>) __builtin_prefetch(from + Columns * k.depth, 0, 2);
    }
    for (int r = 0; r < Rows; ++r) {
      const auto value = load_widened(x + r * k.depth + i);
      for (int c = 0; c < Columns; ++c) sum[r][c] += value * w[c];
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) {
      T total = Lanes<T>::sum(sum[r][c]);
      for (int64_t i = whole; i < k.depth; ++i)
        total = std::fma(x[r * k.depth + i], widened(weight[c * k.depth + i]), total);
      out[r * k.columns + c] = bias == nullptr ? total : total + bias[c];
    }
  }
}

/// All rows of columns [begin, end).
template <typename T, typename W>
void columns(const SkinnyGemm& k, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(k.x);
  const W* weight = static_cast<const W*>(k.weight);
  const T* bias = static_cast<const T*>(k.bias);
  T* out = static_cast<T*>(k.out);
  for_skinny_tiles<kColumns>(k.rows, begin, end, [&]<int Rows, int Columns>(int64_t r, int64_t c) {
    tile<T, W, Rows, Columns>(k, x + r * k.depth, weight + c * k.depth, bias == nullptr ? nullptr : bias + c,
                              out + r * k.columns + c);
  });
}

template <typename T, typename W>
void products(const SkinnyGemm& k) {
  const int64_t grain = std::max<int64_t>(
      kSingleRowColumns,
      kTaskBytes / (k.depth * static_cast<int64_t>(sizeof(W)) * std::max<int64_t>(1, k.rows)));
  parallel_for(k.columns, grain, [&](int64_t begin, int64_t end) { columns<T, W>(k, begin, end); });
}

}  // namespace

void skinny_gemm(const SkinnyGemm& k) {
  if (k.rows == 0) return;
  if (k.weight_type == k.type) return with_type(k.type, [&]<typename T>() { products<T, T>(k); });
  if (k.weight_type == DType::i8) return int8_skinny_gemm(k);
  PERCEIVER_ASSERT(k.type == DType::f32 && k.weight_type == DType::bf16);
  products<float, Bf16>(k);
}

}  // namespace perceiver::kernels::cpu
