// Matrix products: oneDNN in float32 (it dispatches to the CPU's widest instructions at run time), Eigen in
// float64, where exactness matters and speed does not.
#include <dnnl.h>
#include <Eigen/Dense>

#include "base/check.h"
#include "kernels/cpu/blocked_signals.h"
#include "kernels/cpu/parallel.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cpu {
namespace {

void gemm_f32(const Gemm& g) {
  const BlockedSignals blocked;
  BlockedSignals::block_in_team();
  const dnnl_status_t status =
      dnnl_sgemm(g.transpose_a ? 'T' : 'N', g.transpose_b ? 'T' : 'N', g.m, g.n, g.k, 1.0f,
                 static_cast<const float*>(g.a), g.lda, static_cast<const float*>(g.b), g.ldb,
                 g.accumulate ? 1.0f : 0.0f, static_cast<float*>(g.c), g.ldc);
  if (status != dnnl_success)
    throw_failure("matrix product [{}, {}] x [{}, {}]: oneDNN status {}", g.m, g.k, g.k, g.n, int(status));
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

}  // namespace

void gemm(const Gemm& g) {
  PERCEIVER_ASSERT(g.type == g.out_type && g.k > 0 && !(g.bias != nullptr && g.accumulate));
  if (g.m == 0 || g.n == 0) return;
  if (g.type == DType::f64) {
    gemm_f64(g);
  } else {
    gemm_f32(g);
  }
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
