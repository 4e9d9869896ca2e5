// Products with eight-bit weights, in integers: a multiplication takes two to four instructions less than
// with weights converted to f32, which matters for several rows (4 rows take 0.6 of the time with AVX-512)
// and without AVX-512.
//
// The rows of activations become integers of 16 bits, [-32767, 32767] with a scale each: their rounding is
// finer than that of the weights by 8 bits. Sums of products of integers are exact, so their order does not
// matter: an element is the same for any number of rows, tiles, threads and instruction set.
#include "kernels/cpu/int8_skinny_gemm.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "kernels/cpu/integer_vector.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/skinny_tiles.h"

namespace perceiver::kernels::cpu {
namespace {

/// Of a tile of four rows. Products take registers beside the sums: of 16, 4 x 3 sums are too many.
constexpr int kColumns = kVectorRegisters == 32 ? 4 : 2;
constexpr int64_t kTaskBytes = 1 << 15;
constexpr int64_t kElements = IntegerVector::kElements;
/// 256 additions of two products of at most 128 * 32767 fit 32 bits.
constexpr int64_t kBlock = 256 * kElements;
constexpr float kLargest = 32767;

/// Rows of 16-bit integers with a scale each, in the working memory of the calling thread.
struct Activations {
  int16_t* integers;  // [rows, depth]
  float* scale;       // [rows]
};
struct IntegersTag;
struct ScaleTag;

/// The bits of the largest magnitude; as integers they are in the order of the numbers, then infinity and
/// NaN.
int32_t largest_magnitude(const float* row, int64_t depth) {
  int32_t largest = 0;
  for (int64_t i = 0; i < depth; ++i)
    largest = std::max(largest, std::bit_cast<int32_t>(row[i]) & std::numeric_limits<int32_t>::max());
  return largest;
}

/// Rounds to nearest: the sum with 1.5 * 2^23 has the integer in its last bits.
void round_row(const float* row, int64_t depth, float inverse, int16_t* integers) {
  for (int64_t i = 0; i < depth; ++i)
    integers[i] = static_cast<int16_t>(std::bit_cast<uint32_t>(row[i] * inverse + 12582912.0F));
}

/// Returns the scale: NaN if a number is not finite, 0 if all are too small for a finite inverse.
float quantize_row(const float* row, int64_t depth, int16_t* integers) {
  const auto largest = std::bit_cast<float>(largest_magnitude(row, depth));
  const bool finite = std::isfinite(largest);
  if (!finite || largest < kLargest * FLT_MIN) {
    std::fill_n(integers, depth, int16_t{0});
    return finite ? 0 : std::numeric_limits<float>::quiet_NaN();
  }
  round_row(row, depth, kLargest / largest, integers);
  return largest / kLargest;
}

Activations quantize(const SkinnyGemm& k) {
  const Activations x{scratch<IntegersTag, int16_t>(static_cast<size_t>(k.rows * k.depth)),
                      scratch<ScaleTag, float>(static_cast<size_t>(k.rows))};
  for (int64_t r = 0; r < k.rows; ++r)
    x.scale[r] =
        quantize_row(static_cast<const float*>(k.x) + r * k.depth, k.depth, x.integers + r * k.depth);
  return x;
}

/// total[r][c] += the products of elements [begin, end), whole vectors and at most kBlock. Inlined, because
/// `add` may be for other instructions than the rest of this file.
template <void (*add)(IntegerVector&, IntegerVector, IntegerVector), int Rows, int Columns>
[[gnu::always_inline]] inline void sum_block(int64_t depth, const int16_t* x, const int8_t* weight,
                                             int64_t begin, int64_t end, int64_t (&total)[Rows][Columns]) {
  IntegerVector sum[Rows][Columns];
  for (auto& row : sum)
    for (IntegerVector& each : row) each = integer_zero();
  for (int64_t i = begin; i < end; i += kElements) {
    IntegerVector w[Columns];
    for (int c = 0; c < Columns; ++c) {
      const int8_t* from = weight + c * depth + i;
      w[c] = load_integers(from);
      // The rows are too short for the hardware prefetcher: prefetch the next tile's into L2.
      __builtin_prefetch(from + Columns * depth, 0, 2);
    }
    for (int r = 0; r < Rows; ++r) {
      const IntegerVector value = load_integers(x + r * depth + i);
      for (int c = 0; c < Columns; ++c) add(sum[r][c], value, w[c]);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < Columns; ++c) total[r][c] += lane_sum(sum[r][c]);
}

template <int Rows, int Columns>
void add_block(int64_t depth, const int16_t* x, const int8_t* weight, int64_t begin, int64_t end,
               int64_t (&total)[Rows][Columns]) {
  sum_block<add_products>(depth, x, weight, begin, end, total);
}

template <int Rows, int Columns>
PERCEIVER_VNNI void add_block_vnni(int64_t depth, const int16_t* x, const int8_t* weight, int64_t begin,
                                   int64_t end, int64_t (&total)[Rows][Columns]) {
  sum_block<add_products_vnni>(depth, x, weight, begin, end, total);
}

/// out[r, c] for the tile whose first element is (row, column).
template <int Rows, int Columns>
void tile(const SkinnyGemm& k, const Activations& activations, int64_t row, int64_t column) {
  const int16_t* x = activations.integers + row * k.depth;
  const int8_t* weight = static_cast<const int8_t*>(k.weight) + column * k.depth;
  int64_t total[Rows][Columns] = {};
  const int64_t whole = k.depth / kElements * kElements;
  const auto add = has_vnni() ? add_block_vnni<Rows, Columns> : add_block<Rows, Columns>;
  for (int64_t i = 0; i < whole; i += kBlock) add(k.depth, x, weight, i, std::min(whole, i + kBlock), total);
  const float* scale = static_cast<const float*>(k.weight_scale) + column;
  const float* bias = k.bias == nullptr ? nullptr : static_cast<const float*>(k.bias) + column;
  float* out = static_cast<float*>(k.out) + row * k.columns + column;
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) {
      for (int64_t i = whole; i < k.depth; ++i)
        total[r][c] += int64_t{x[r * k.depth + i]} * weight[c * k.depth + i];
      // The same in tiles of every size: a compiler may fuse a product and a sum, or not.
      out[r * k.columns + c] = std::fma(static_cast<float>(total[r][c]) * scale[c],
                                        activations.scale[row + r], bias == nullptr ? 0 : bias[c]);
    }
  }
}

/// All rows of columns [begin, end).
void columns(const SkinnyGemm& k, const Activations& x, int64_t begin, int64_t end) {
  for_skinny_tiles<kColumns>(k.rows, begin, end, [&]<int Rows, int Columns>(int64_t r, int64_t c) {
    tile<Rows, Columns>(k, x, r, c);
  });
}

}  // namespace

void int8_skinny_gemm(const SkinnyGemm& k) {
  PERCEIVER_ASSERT(k.type == DType::f32 && k.weight_type == DType::i8 && k.weight_scale != nullptr);
  const Activations x = quantize(k);
  const int64_t grain =
      std::max<int64_t>(kSingleRowColumns, kTaskBytes / (k.depth * std::max<int64_t>(1, k.rows)));
  parallel_for(k.columns, grain, [&](int64_t begin, int64_t end) { columns(k, x, begin, end); });
}

}  // namespace perceiver::kernels::cpu
