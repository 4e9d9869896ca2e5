// Matrix products: oneDNN in float32 (it dispatches to the CPU's widest instructions at run time), Eigen in
// float64, where exactness matters and speed does not. Both run on one thread; the result is divided into
// blocks, which the workers of the device context compute.
#define EIGEN_DONT_PARALLELIZE
#include <dnnl.h>
#include <omp.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cstddef>

#include "base/check.h"
#include "kernels/cpu/blocked_signals.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cpu {
namespace {

/// oneDNN would divide a product among OpenMP's threads, whose idle ones spin; here the workers of the device
/// context do the parts, and each part stays on its thread.
class OneOpenMpThread {
 public:
  OneOpenMpThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneOpenMpThread() { omp_set_num_threads(before_); }
  OneOpenMpThread(const OneOpenMpThread&) = delete;
  OneOpenMpThread& operator=(const OneOpenMpThread&) = delete;

 private:
  int before_;
};

void sgemm(const Gemm& g) {
  const BlockedSignals blocked;
  const OneOpenMpThread one_thread;
  const dnnl_status_t status =
      dnnl_sgemm(g.transpose_a ? 'T' : 'N', g.transpose_b ? 'T' : 'N', g.m, g.n, g.k, 1.0f,
                 static_cast<const float*>(g.a), g.lda, static_cast<const float*>(g.b), g.ldb,
                 g.accumulate ? 1.0f : 0.0f, static_cast<float*>(g.c), g.ldc);
  if (status != dnnl_success)
    throw_failure("matrix product [{}, {}] x [{}, {}]: oneDNN status {}", g.m, g.k, g.k, g.n, int(status));
}

// A row of C has the same bits in any number of rows. With AVX-512 oneDNN sees to that. With AVX2 its kernels
// compute 6 rows at a time, 4 of what is left, and the last 1 to 3 in another order of summation; it cuts
// what is more than 72 or 144 rows (B as it is, or transposed) into blocks, of which the last two are halves
// of the rest; and in large products it divides sums of many products in another way. (All of that was found
// by experiment, in oneDNN 2.7.) So it gets whole blocks first, one at a time where sums are long, then what
// is left, the last 1 to 3 rows as 4.
constexpr int64_t kKernelRows = 6, kPaddedRows = 4, kBlockRows = 72, kLongSum = 256;

bool has_avx512() {
  static const bool has =
      (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
  return has;
}

struct PaddedATag;
struct PaddedCTag;

/// A product of fewer than kPaddedRows rows, A not transposed.
void sgemm_padded(const Gemm& g) {
  float* const a = scratch<PaddedATag, float>(static_cast<size_t>(kPaddedRows * g.k));
  float* const c = scratch<PaddedCTag, float>(static_cast<size_t>(kPaddedRows * g.n));
  std::fill_n(a, kPaddedRows * g.k, 0.0f);
  std::fill_n(c, kPaddedRows * g.n, 0.0f);
  float* const result = static_cast<float*>(g.c);
  for (int64_t r = 0; r < g.m; ++r) {
    std::copy_n(static_cast<const float*>(g.a) + r * g.lda, g.k, a + r * g.k);
    if (g.accumulate) std::copy_n(result + r * g.ldc, g.n, c + r * g.n);
  }
  Gemm padded = g;
  padded.m = kPaddedRows;
  padded.a = a, padded.lda = g.k;
  padded.c = c, padded.ldc = g.n;
  sgemm(padded);
  for (int64_t r = 0; r < g.m; ++r) std::copy_n(c + r * g.n, g.n, result + r * g.ldc);
}

void gemm_f32(const Gemm& g) {
  // The rows of a transposed A are a layer's outputs, the same ones in every call.
  if (g.transpose_a || has_avx512()) return sgemm(g);
  Gemm rest = g;
  const auto take = [&](int64_t rows, auto multiply) {
    Gemm part = rest;
    part.m = rows;
    if (rows > 0) multiply(part);
    rest.m -= rows;
    rest.a = static_cast<const float*>(rest.a) + rows * g.lda;
    rest.c = static_cast<float*>(rest.c) + rows * g.ldc;
  };
  const int64_t most = g.k > kLongSum ? 2 * kBlockRows : g.m / (2 * kBlockRows) * 2 * kBlockRows;
  while (rest.m >= 2 * kBlockRows) take(most, sgemm);
  take(rest.m / kBlockRows * kBlockRows, sgemm);
  const int64_t last = rest.m % kKernelRows;
  take(last < kPaddedRows ? rest.m - last : rest.m, sgemm);
  take(rest.m, sgemm_padded);
}

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using ConstMap = Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>;
using MutableMap = Eigen::Map<Matrix, 0, Eigen::OuterStride<>>;

template <typename A, typename B>
void product(const A& a, const B& b, MutableMap c, bool accumulate) {
  if (accumulate) {
    c.noalias() += a * b;
  } else {
    c.noalias() = a * b;
  }
}

void gemm_f64(const Gemm& g) {
  const ConstMap a(static_cast<const double*>(g.a), g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k,
                   Eigen::OuterStride<>(g.lda));
  const ConstMap b(static_cast<const double*>(g.b), g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n,
                   Eigen::OuterStride<>(g.ldb));
  const MutableMap c(static_cast<double*>(g.c), g.m, g.n, Eigen::OuterStride<>(g.ldc));
  if (g.transpose_a && g.transpose_b) return product(a.transpose(), b.transpose(), c, g.accumulate);
  if (g.transpose_a) return product(a.transpose(), b, c, g.accumulate);
  if (g.transpose_b) return product(a, b.transpose(), c, g.accumulate);
  product(a, b, c, g.accumulate);
}

/// How C is divided: a grid of blocks whose sides are multiples of these, except the last ones.
struct Grid {
  int64_t rows = 1, columns = 1;
};
constexpr int64_t kRowSide = 8 * kKernelRows, kColumnSide = 16;  // whole tiles of oneDNN's kernels

/// The largest grid of at most `parts` blocks, with the squarest blocks: each reads a strip of A and of B.
Grid grid_for(int64_t m, int64_t n, int64_t parts) {
  const int64_t most_rows = (m + kRowSide - 1) / kRowSide, most_columns = (n + kColumnSide - 1) / kColumnSide;
  Grid best;
  for (int64_t rows = 1; rows <= std::min(parts, most_rows); ++rows) {
    const int64_t columns = std::min(parts / rows, most_columns);
    const int64_t more = rows * columns - best.rows * best.columns;
    const auto perimeter = [&](int64_t r, int64_t c) { return m / r + n / c; };
    if (more > 0 || (more == 0 && perimeter(rows, columns) < perimeter(best.rows, best.columns)))
      best = {rows, columns};
  }
  return best;
}

/// A part costs about a microsecond beside its arithmetic; several parts a thread even out unequal
/// processors, where they are long enough to be as efficient as whole products.
int64_t parts_of(const Gemm& g) {
  constexpr int64_t kSmallest = int64_t{1} << 18, kEfficient = int64_t{1} << 25;
  const int64_t work = g.m * g.n * g.k;
  // Eigen's order of summation depends on the size of a block: in float64 the same grid for any number of
  // threads gives the same bits.
  if (g.type == DType::f64) return std::clamp<int64_t>(work / kSmallest, 1, kReductionParts);
  const int64_t threads = loop_threads();
  if (threads == 1) return 1;
  return std::max(std::min(threads, work / kSmallest),
                  std::min(threads * kPartsPerThread, work / kEfficient));
}

/// Where block `index` of `count` begins.
int64_t block_start(int64_t size, int64_t side, int64_t count, int64_t index) {
  const int64_t sides = (size + side - 1) / side;
  return std::min(size, sides * index / count * side);
}

Gemm block_of(const Gemm& g, const Grid& grid, int64_t part) {
  const int64_t row = part / grid.columns, column = part % grid.columns;
  const int64_t top = block_start(g.m, kRowSide, grid.rows, row),
                left = block_start(g.n, kColumnSide, grid.columns, column);
  const auto element = static_cast<int64_t>(size_of(g.type));
  const auto at = [&](const void* matrix, int64_t offset) {
    return static_cast<const std::byte*>(matrix) + offset * element;
  };
  Gemm block = g;
  block.m = block_start(g.m, kRowSide, grid.rows, row + 1) - top;
  block.n = block_start(g.n, kColumnSide, grid.columns, column + 1) - left;
  block.a = at(g.a, g.transpose_a ? top : top * g.lda);
  block.b = at(g.b, g.transpose_b ? left * g.ldb : left);
  block.c = static_cast<std::byte*>(g.c) + (top * g.ldc + left) * element;
  return block;
}

}  // namespace

void gemm(const Gemm& g) {
  PERCEIVER_ASSERT(g.type == g.out_type && g.k > 0 && !(g.bias != nullptr && g.accumulate));
  if (g.m == 0 || g.n == 0) return;
  const Grid grid = grid_for(g.m, g.n, parts_of(g));
  parallel_items(grid.rows * grid.columns, [&](int64_t part) {
    const Gemm block = block_of(g, grid, part);
    g.type == DType::f64 ? gemm_f64(block) : gemm_f32(block);
  });
  if (g.bias == nullptr) return;
  PERCEIVER_ASSERT(g.ldc == g.n);  // on the CPU, results have no padding
  bias_activation({.type = g.type,
                   .rows = g.m,
                   .columns = g.n,
                   .activation = Activation::identity,
                   .pre = g.c,
                   .bias = g.bias});
}

}  // namespace perceiver::kernels::cpu
