// Matrix products: in float32 oneDNN on processors with AVX-512 and packed_gemm.h on others, in float64
// Eigen, where exactness matters and speed does not. All run on one thread; the result is divided into
// blocks, which the workers of the device context compute.
#define EIGEN_DONT_PARALLELIZE
#include <dnnl.h>
#include <omp.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cstddef>

#include "base/check.h"
#include "kernels/cpu/blocked_signals.h"
#include "kernels/cpu/packed_gemm.h"
#include "kernels/cpu/parallel.h"
#include "kernels/elementwise.h"
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

// An element of C has the same bits in any number of rows and on any number of threads. With AVX-512 oneDNN
// sees to that. Its kernels for AVX2 do not: the last rows, the rest of its blocks and long sums are added in
// other orders (found by experiment, in oneDNN 2.7), and with a transposed A they run at half speed where its
// rows are a multiple of 4 KiB long.
void gemm_f32(const Gemm& g) {
  static const bool has_avx512 =
      (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
  has_avx512 ? sgemm(g) : packed_gemm(g);
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
constexpr int64_t kRowSide = 48, kColumnSide = 16;  // whole tiles

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

/// Product `index` of the batch.
Gemm one_of(const Gemm& g, int64_t index) {
  const int64_t bytes = index * static_cast<int64_t>(size_of(g.type));
  Gemm one = g;
  one.batch = 1;
  one.a = static_cast<const std::byte*>(g.a) + bytes * g.stride_a;
  one.b = static_cast<const std::byte*>(g.b) + bytes * g.stride_b;
  one.c = static_cast<std::byte*>(g.c) + bytes * g.stride_c;
  return one;
}

}  // namespace

void gemm(const Gemm& g) {
  const bool adds = g.bias != nullptr || g.addend != nullptr;
  PERCEIVER_ASSERT(g.type == g.out_type && g.k > 0 && !(adds && (g.accumulate || g.batch > 1)));
  if (g.batch != 1) {
    for (int64_t i = 0; i < g.batch; ++i) gemm(one_of(g, i));
    return;
  }
  PERCEIVER_ASSERT(g.lda >= (g.transpose_a ? g.m : g.k) && g.ldb >= (g.transpose_b ? g.k : g.n) &&
                   g.ldc >= g.n);
  if (g.m == 0 || g.n == 0) return;
  const Grid grid = grid_for(g.m, g.n, parts_of(g));
  parallel_items(grid.rows * grid.columns, [&](int64_t part) {
    const Gemm block = block_of(g, grid, part);
    g.type == DType::f64 ? gemm_f64(block) : gemm_f32(block);
  });
  if (!adds) return;
  PERCEIVER_ASSERT(g.ldc == g.n);  // on the CPU, results have no padding
  if (g.bias != nullptr)
    bias_activation({.type = g.type,
                     .rows = g.m,
                     .columns = g.n,
                     .activation = Activation::identity,
                     .pre = g.c,
                     .bias = g.bias});
  if (g.addend != nullptr) add({.type = g.type, .elements = g.m * g.n, .source = g.addend, .target = g.c});
}

}  // namespace perceiver::kernels::cpu
