// Matrix products by cuBLASLt. Row-major C = op(A) · op(B) is column-major Cᵀ = op(B)ᵀ · op(A)ᵀ, so the
// operands are swapped and nothing is transposed. Descriptors and the algorithm (the first one that the
// heuristic proposes: timings play no part, so results repeat from run to run) are chosen once per shape,
// alignment and type and cached; after that a product is one call, safe for graph capture.
#include "kernels/cuda/gemm/gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <compare>
#include <map>
#include <mutex>

#include "base/check.h"
#include "kernels/cuda/support/errors.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cuda {
namespace {

void check_status(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw_failure("cuBLASLt: {}: {}", what, cublasLtGetStatusString(status));
}

cudaDataType_t data_type(DType type) {
  require(type == DType::f32 || type == DType::bf16, "matrices of f32 or bf16");
  return type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// Largest power of two, up to 256, that divides an address.
uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address == 0 ? 256 : uint32_t{1} << std::min(8, std::countr_zero(address));
}

struct Key {
  DType type, out_type;
  bool transpose_a, transpose_b, accumulate, bias;
  MatmulPrecision matmul_precision;
  int64_t m, n, k, lda, ldb, ldc;
  uint32_t align_a, align_b, align_c;
  auto operator<=>(const Key&) const = default;
};

struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    cublasLtMatrixLayoutDestroy(out);
    cublasLtMatrixLayoutDestroy(second);
    cublasLtMatrixLayoutDestroy(first);
    cublasLtMatmulDescDestroy(product);
  }
};

template <typename Value>
void set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, const Value& value) {
  check_status(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value), "attribute");
}

template <typename Value>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const Value& value) {
  check_status(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
               "preference");
}

cublasComputeType_t compute_type(const Key& key) {
  const bool rounds = key.type == DType::f32 && key.matmul_precision == MatmulPrecision::tf32;
  return rounds ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

void describe(const Key& key, Plan& plan) {
  check_status(cublasLtMatmulDescCreate(&plan.product, compute_type(key), CUDA_R_32F), "product");
  set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (key.bias) {
    set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(key.type));
  }
  const auto unsigned_of = [](int64_t extent) { return static_cast<uint64_t>(extent); };
  const uint64_t m = unsigned_of(key.m), n = unsigned_of(key.n), k = unsigned_of(key.k);
  check_status(cublasLtMatrixLayoutCreate(&plan.first, data_type(key.type), key.transpose_b ? k : n,
                                          key.transpose_b ? n : k, key.ldb),
               "layout");
  check_status(cublasLtMatrixLayoutCreate(&plan.second, data_type(key.type), key.transpose_a ? m : k,
                                          key.transpose_a ? k : m, key.lda),
               "layout");
  check_status(cublasLtMatrixLayoutCreate(&plan.out, data_type(key.out_type), n, m, key.ldc), "layout");
}

void choose_algorithm(cublasLtHandle_t handle, const Key& key, uint64_t workspace_bytes, Plan& plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  check_status(cublasLtMatmulPreferenceCreate(&preference), "preference");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_c);
  cublasLtMatmulHeuristicResult_t proposal{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, plan.product, plan.first, plan.second, plan.out, plan.out, preference, 1, &proposal, &found);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0)
    throw_failure("cuBLASLt has no algorithm for [{}, {}] x [{}, {}], {} to {}: {}", key.m, key.k, key.k,
                  key.n, name_of(key.type), name_of(key.out_type), cublasLtGetStatusString(status));
  plan.algorithm = proposal.algo;
}

}  // namespace

struct GemmContext::State {
  std::mutex mutex;
  cublasLtHandle_t handle = nullptr;
  std::map<Key, Plan> plans;
};

GemmContext::GemmContext() : state_(std::make_unique<State>()) {
  check_status(cublasLtCreate(&state_->handle), "handle");
}

GemmContext::~GemmContext() {
  state_->plans.clear();
  cublasLtDestroy(state_->handle);
}

void gemm(const Launch& launch, const Gemm& g) {
  require(g.k > 0 && !(g.bias != nullptr && g.accumulate), "k > 0, and no bias where it accumulates");
  if (g.m == 0 || g.n == 0) return;
  GemmContext::State& state = static_cast<GemmContext*>(launch.gemm_context)->state();
  const Key key{.type = g.type,
                .out_type = g.out_type,
                .transpose_a = g.transpose_a,
                .transpose_b = g.transpose_b,
                .accumulate = g.accumulate,
                .bias = g.bias != nullptr,
                .matmul_precision = launch.matmul_precision,
                .m = g.m,
                .n = g.n,
                .k = g.k,
                .lda = g.lda,
                .ldb = g.ldb,
                .ldc = g.ldc,
                .align_a = alignment_of(g.a),
                .align_b = alignment_of(g.b),
                .align_c = alignment_of(g.c)};
  std::lock_guard lock(state.mutex);  // the bias address is set in the cached descriptor
  const auto [place, is_new] = state.plans.try_emplace(key);
  Plan& plan = place->second;
  if (is_new) {
    try {
      describe(key, plan);
      choose_algorithm(state.handle, key, static_cast<uint64_t>(launch.workspace_bytes), plan);
    } catch (...) {
      state.plans.erase(place);
      throw;
    }
  }
  if (g.bias != nullptr) set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  const float one = 1, beta = g.accumulate ? 1.0f : 0.0f;
  check_status(
      cublasLtMatmul(state.handle, plan.product, &one, g.b, plan.first, g.a, plan.second, &beta, g.c,
                     plan.out, g.c, plan.out, &plan.algorithm, launch.workspace,
                     static_cast<size_t>(launch.workspace_bytes), static_cast<cudaStream_t>(launch.stream)),
      "matrix product");
}

}  // namespace perceiver::kernels::cuda
