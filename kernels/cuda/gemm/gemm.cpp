// Matrix products by cuBLASLt, 8-bit ones too. Row-major C = op(A) · op(B) is column-major Cᵀ = op(B)ᵀ ·
// op(A)ᵀ, so the operands are swapped and nothing is transposed. Descriptors and the algorithm (of those that
// the heuristic proposes: timings play no part, so results repeat from run to run) are chosen once per shape,
// alignment and type and cached; after that a product is one call, safe for graph capture. Products with
// columns that are no multiple of 8 are left to hopper_gemm.cu where it can run.
#include "kernels/cuda/gemm/gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <compare>
#include <map>
#include <mutex>
#include <span>

#include "base/check.h"
#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/cuda/support/errors.h"
#include "kernels/elementwise.h"
#include "kernels/fp8.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cuda {
namespace {

void check_status(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw_failure("cuBLASLt: {}: {}", what, cublasLtGetStatusString(status));
}

cudaDataType_t data_type(Fp8Format format) {
  return format == Fp8Format::e4m3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2;
}

cudaDataType_t data_type(DType type) {
  require(type == DType::f32 || type == DType::bf16, "matrices of f32 or bf16");
  return type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// Largest power of two, up to 256, that divides an address and the bytes from one matrix to the next.
uint32_t alignment_of(const void* pointer, int64_t stride_bytes = 0) {
  const auto bits = reinterpret_cast<uintptr_t>(pointer) | static_cast<uintptr_t>(stride_bytes);
  return bits == 0 ? 256 : uint32_t{1} << std::min(8, std::countr_zero(bits));
}

/// How a product computes, beside the types of its operands.
enum class Arithmetic { full, tf32, fp8, fp8_precise };

bool is_fp8(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::fp8 || arithmetic == Arithmetic::fp8_precise;
}

struct Key {
  cudaDataType_t a_type, b_type, out_type, bias_type;
  bool transpose_a, transpose_b, accumulate, bias, addend;
  Arithmetic arithmetic;
  int64_t m, n, k, lda, ldb, ldc;
  int64_t batch, stride_a, stride_b, stride_c;
  uint32_t align_a, align_b, align_c, align_addend;
  auto operator<=>(const Key&) const = default;
};

/// What changes from call to call of a plan.
struct Operands {
  const void *a, *b, *bias, *addend;
  void* c;
  const float *a_scale = nullptr, *b_scale = nullptr;  // fp8: multiply the product
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

void repeat(cublasLtMatrixLayout_t layout, int64_t batch, int64_t stride) {
  const auto count = static_cast<int32_t>(batch);
  check_status(
      cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count),
      "batch");
  check_status(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                                sizeof stride),
               "stride");
}

void describe(const Key& key, Plan& plan) {
  const auto compute = key.arithmetic == Arithmetic::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  check_status(cublasLtMatmulDescCreate(&plan.product, compute, CUDA_R_32F), "product");
  set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (key.arithmetic == Arithmetic::fp8) set(plan.product, CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
  if (key.bias) {
    set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, key.bias_type);
  }
  const auto unsigned_of = [](int64_t extent) { return static_cast<uint64_t>(extent); };
  const uint64_t m = unsigned_of(key.m), n = unsigned_of(key.n), k = unsigned_of(key.k);
  check_status(cublasLtMatrixLayoutCreate(&plan.first, key.b_type, key.transpose_b ? k : n,
                                          key.transpose_b ? n : k, key.ldb),
               "layout");
  check_status(cublasLtMatrixLayoutCreate(&plan.second, key.a_type, key.transpose_a ? m : k,
                                          key.transpose_a ? k : m, key.lda),
               "layout");
  check_status(cublasLtMatrixLayoutCreate(&plan.out, key.out_type, n, m, key.ldc), "layout");
  if (key.batch == 1) return;
  repeat(plan.first, key.batch, key.stride_b);
  repeat(plan.second, key.batch, key.stride_a);
  repeat(plan.out, key.batch, key.stride_c);
}

/// Sets the addresses in the descriptor. They are needed to choose an algorithm, too: some have no scales.
void point_to(const Key& key, const Operands& operands, Plan& plan) {
  if (key.bias) set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
  if (!is_fp8(key.arithmetic)) return;
  set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, operands.b_scale);
  set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, operands.a_scale);
}

/// Whether the algorithm sums parts of k apart, and adds them in a kernel of its own.
bool splits(const cublasLtMatmulHeuristicResult_t& proposal) {
  int32_t parts = 1;
  size_t written = 0;
  check_status(cublasLtMatmulAlgoConfigGetAttribute(&proposal.algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts,
                                                    sizeof parts, &written),
               "parts of an algorithm");
  return parts > 1;
}

/// The first proposal, but for one that splits k the first that need not: one whose tiles nearly fill the
/// GPU's waves. The heuristic prefers large tiles too much where k is long.
const cublasLtMatmulHeuristicResult_t& best_of(std::span<const cublasLtMatmulHeuristicResult_t> proposals) {
  if (!splits(proposals[0])) return proposals[0];
  const auto fills = [](const cublasLtMatmulHeuristicResult_t& proposal) {
    const float waves = proposal.wavesCount;
    return !splits(proposal) && waves > 0 && waves >= 0.9f * std::ceil(waves);
  };
  const auto found = std::find_if(proposals.begin(), proposals.end(), fills);
  return found != proposals.end() ? *found : proposals[0];
}

void choose_algorithm(cublasLtHandle_t handle, const Key& key, uint64_t workspace_bytes, Plan& plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  check_status(cublasLtMatmulPreferenceCreate(&preference), "preference");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_addend);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_c);
  // Parts of a sum over k are added in f32: rounded to bf16 each, they would cost more than the result's
  // rounding.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  std::array<cublasLtMatmulHeuristicResult_t, 8> proposals{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, plan.product, plan.first, plan.second, plan.out, plan.out, preference,
      static_cast<int>(proposals.size()), proposals.data(), &found);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0)
    throw_failure("cuBLASLt has no algorithm for [{}, {}] x [{}, {}], types {} and {} to {}: {}", key.m,
                  key.k, key.k, key.n, static_cast<int>(key.a_type), static_cast<int>(key.b_type),
                  static_cast<int>(key.out_type), cublasLtGetStatusString(status));
  plan.algorithm = best_of(std::span(proposals).first(static_cast<size_t>(found))).algo;
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

namespace {

/// The plan for `key`, with the operands' addresses in its descriptor.
Plan& plan_for(GemmContext::State& state, const Launch& launch, const Key& key, const Operands& operands) {
  const auto [place, is_new] = state.plans.try_emplace(key);
  Plan& plan = place->second;
  try {
    if (is_new) describe(key, plan);
    point_to(key, operands, plan);
    if (is_new) choose_algorithm(state.handle, key, static_cast<uint64_t>(launch.workspace_bytes), plan);
  } catch (...) {
    state.plans.erase(place);
    throw;
  }
  return plan;
}

void multiply(const Launch& launch, const Key& key, const Operands& operands) {
  require(key.k > 0 && !((key.bias || key.addend) && (key.accumulate || key.batch > 1)),
          "k > 0, and no bias or addend where it accumulates or with a batch");
  if (key.m == 0 || key.n == 0) return;
  GemmContext::State& state = static_cast<GemmContext*>(launch.gemm_context)->state();
  std::lock_guard lock(state.mutex);  // addresses are set in the cached descriptor
  const Plan& plan = plan_for(state, launch, key, operands);
  // D = A · B + beta C; D and C are one matrix where it accumulates.
  const float one = 1, beta = key.accumulate || key.addend ? 1.0f : 0.0f;
  const void* const added = key.addend ? operands.addend : operands.c;
  check_status(
      cublasLtMatmul(state.handle, plan.product, &one, operands.b, plan.first, operands.a, plan.second, &beta,
                     added, plan.out, operands.c, plan.out, &plan.algorithm, launch.workspace,
                     static_cast<size_t>(launch.workspace_bytes), static_cast<cudaStream_t>(launch.stream)),
      "matrix product");
}

/// Where columns are no multiple of 8, cuBLASLt takes kernels without tensor memory access, which are four to
/// six times slower, even if rows are aligned.
bool try_hopper(const Launch& launch, const Gemm& g) {
  if (g.n % 8 == 0 && g.k % 8 == 0) return false;
  if (g.type != DType::bf16 || g.out_type != DType::bf16 || g.transpose_a || g.batch > 1 || g.accumulate)
    return false;
  const HopperGemm product = hopper_product(g);
  if (!hopper_gemm_possible(product) || (g.addend != nullptr && g.ldc != g.n)) return false;
  hopper_gemm(launch, product);
  if (g.addend != nullptr)
    add(launch, {.type = g.out_type, .elements = g.m * g.n, .source = g.addend, .target = g.c});
  return true;
}

}  // namespace

void gemm(const Launch& launch, const Gemm& g) {
  if (try_hopper(launch, g)) return;
  const bool rounds = g.type == DType::f32 && launch.matmul_precision == MatmulPrecision::tf32;
  const cudaDataType_t type = data_type(g.type);
  const auto bytes = static_cast<int64_t>(size_of(g.type)),
             out_bytes = static_cast<int64_t>(size_of(g.out_type));
  multiply(launch,
           {.a_type = type,
            .b_type = type,
            .out_type = data_type(g.out_type),
            .bias_type = type,
            .transpose_a = g.transpose_a,
            .transpose_b = g.transpose_b,
            .accumulate = g.accumulate,
            .bias = g.bias != nullptr,
            .addend = g.addend != nullptr,
            .arithmetic = rounds ? Arithmetic::tf32 : Arithmetic::full,
            .m = g.m,
            .n = g.n,
            .k = g.k,
            .lda = g.lda,
            .ldb = g.ldb,
            .ldc = g.ldc,
            .batch = g.batch,
            .stride_a = g.stride_a,
            .stride_b = g.stride_b,
            .stride_c = g.stride_c,
            .align_a = alignment_of(g.a, g.stride_a * bytes),
            .align_b = alignment_of(g.b, g.stride_b * bytes),
            .align_c = alignment_of(g.c, g.stride_c * out_bytes),
            .align_addend = alignment_of(g.addend != nullptr ? g.addend : g.c, g.stride_c * out_bytes)},
           {.a = g.a, .b = g.b, .bias = g.bias, .addend = g.addend, .c = g.c});
}

void fp8_gemm(const Launch& launch, const Fp8Gemm& g) {
  require(g.m % 16 == 0 && g.n % 16 == 0 && g.k % 16 == 0, "multiples of 16 rows and columns");
  multiply(launch,
           {.a_type = data_type(g.a_format),
            .b_type = data_type(g.b_format),
            .out_type = data_type(g.out_type),
            .bias_type = data_type(g.type),
            .transpose_a = false,
            .transpose_b = true,
            .accumulate = g.accumulate,
            .bias = g.bias != nullptr,
            .addend = g.addend != nullptr,
            .arithmetic = g.precise ? Arithmetic::fp8_precise : Arithmetic::fp8,
            .m = g.m,
            .n = g.n,
            .k = g.k,
            .lda = g.k,
            .ldb = g.k,
            .ldc = g.n,
            .batch = 1,
            .stride_a = 0,
            .stride_b = 0,
            .stride_c = 0,
            .align_a = alignment_of(g.a),
            .align_b = alignment_of(g.b),
            .align_c = alignment_of(g.c),
            .align_addend = alignment_of(g.addend != nullptr ? g.addend : g.c)},
           {.a = g.a,
            .b = g.b,
            .bias = g.bias,
            .addend = g.addend,
            .c = g.c,
            .a_scale = g.a_inverse,
            .b_scale = g.b_inverse});
}

}  // namespace perceiver::kernels::cuda
