// Matrix products of 8-bit floating-point operands, and what makes the operands. Part of the interface in
// kernels/backend.h.
//
// A tensor is quantised with one scale, a power of two that a site (one operand of one layer) takes from the
// largest magnitudes of the steps before (delayed scaling: Micikevicius et al. 2022, "FP8 formats for deep
// learning", section 4): a single pass reads the tensor, writes it, and finds the magnitude for the next
// step. Tensor cores read 8-bit operands along the summed dimension only, so a tensor that is summed along
// its rows too is written twice, once transposed.
//
// The state of n sites is arrays in device memory: `scales` [n, 2, 4] (the factor and its inverse, each
// followed by three unused numbers: cuBLASLt wants them at multiples of 16 bytes), `largest` [ranks, n]
// (magnitudes of this step, of each rank), `peaks` [n] (what the scale follows).
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/backend.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "perceiver/config.h"

namespace perceiver::kernels {

/// e4m3: 3 bits of mantissa, up to 448, without infinity; e5m2: 2 bits, up to 57344.
enum class Fp8Format : uint8_t { e4m3, e5m2 };

constexpr float largest_of(Fp8Format format) {
  return format == Fp8Format::e4m3 ? 448.0f : 57344.0f;
}

/// Quantises y = activation(x), or with `d_out`, y = d_out * activation'(x): q = y * scale[0], rounded to
/// nearest even, clamped to the largest number; NaN where y is not finite. Raises *largest to the largest
/// |y|, infinity included, NaN not. column_sums (+)= the sums of y down the columns, before quantisation. On
/// the CPU `type` is f32 (or f64), on a GPU bf16. rows and columns are multiples of 16.
struct Fp8Quantize {
  DType type;
  int64_t rows, columns;
  Activation activation = Activation::identity;
  const void* x;
  const void* d_out = nullptr;
  Fp8Format format;
  const float* scale;
  float* largest;
  void* out = nullptr;         // [rows, columns]; null: not wanted
  void* transposed = nullptr;  // [columns, rows]; null: not wanted
  void* column_sums = nullptr;
  bool accumulate_sums = false;
};

/// fp8_quantize of `count` matrices (up to 65535) of type T in one launch, to e4m3, without activations,
/// other operands and sums. `each` is in device memory; none has more than `most_elements`.
struct Fp8QuantizeMany {
  DType type;
  const Fp8Quantize* each;
  int64_t count, most_elements;
};

/// C [m, n] (+)= A [m, k] · B [n, k]ᵀ * a_inverse * b_inverse + bias [n]; C has `out_type`, the bias `type`.
/// All sizes are multiples of 16; at most one operand is e5m2. `precise` sums in f32 throughout; otherwise
/// (Hopper) the tensor cores keep about 14 bits of partial sums. A bias excludes `accumulate`.
struct Fp8Gemm {
  DType type, out_type;
  int64_t m, n, k;
  Fp8Format a_format = Fp8Format::e4m3, b_format = Fp8Format::e4m3;
  const void* a;
  const float* a_inverse;
  const void* b;
  const float* b_inverse;
  void* c;
  bool accumulate = false;
  bool precise = false;
  const void* bias = nullptr;
  const void* addend = nullptr;  // as in Gemm
};

/// fp8_quantize of what fp8_gemm gives, in one pass: y = activation(product), or with `quantize.x`, product *
/// activation'(quantize.x). The product is rounded to `product.type` in between, and on a GPU the derivative
/// and what it gives as well. `quantize` has the product's shape and no d_out; product.c may be null, the
/// product is not wanted. On a GPU A is e4m3 in the first form, e5m2 in the second, which does not leave the
/// product, and so are the codes; B is e4m3, and x is aligned to 16 bytes.
struct Fp8GemmQuantize {
  Fp8Gemm product;
  Fp8Quantize quantize;
};

/// fp8_gemm, then the rotation of its result, which is rotary.out; rotary's operands are not read. The
/// product is one of e4m3, to `type`, without an addend.
struct Fp8LinearRotary {
  Fp8Gemm product;
  LinearRotary rotary;
};

/// fp8_quantize of what residual_layer_norm gives, in one pass: of y, rounded to `type`, which itself is not
/// wanted (null). `quantize` has the same shape, format e4m3, `out`, and neither x, nor d_out, activation or
/// sums.
struct Fp8LayerNorm {
  ResidualLayerNorm norm;
  Fp8Quantize quantize;
};

/// residual_layer_norm_backward, and fp8_quantize of the gradient that it gives the branch, rounded to
/// `type`, which is `norm.d_x`: nothing is dropped. `quantize` has the same shape, format e5m2, `out` and
/// `transposed`, and neither x, nor d_out, activation or sums.
struct Fp8LayerNormBackward {
  ResidualLayerNormBackward norm;
  Fp8Quantize quantize;
};

/// attention, and fp8_quantize of its result, which is both written and quantised. `quantize` is of the rows
/// of all examples, format e4m3, with `out`, and neither x, nor d_out, activation or sums.
struct Fp8Attention {
  Attention attention;
  Fp8Quantize quantize;
};

/// fp8_quantize of the gradients that attention_backward gives of a matrix [rows, columns] which q, k and v
/// are columns of, from q_column, k_column and v_column on, as many as there are; the gradients themselves
/// are not wanted (null). `quantize` has format e5m2, `out` and `transposed`, and neither x, nor d_out or
/// activation.
struct Fp8AttentionBackward {
  AttentionBackward backward;
  Fp8Quantize quantize;
  int64_t q_column, k_column, v_column;
};

/// The end of a step: peak = max(largest of all ranks, peak * kFp8Decay), largest = 0, and the scale becomes
/// the power of two that leaves a peak of headroom. An infinite magnitude counts as 0. Site i is e5m2 where
/// i % 3 is 2. Nothing if `scalars` says that the step is not finite, but for largest = 0. Without `scalars`
/// (calibration): only for sites whose peak is still 0, of this rank's magnitudes alone, which are kept.
struct Fp8Rescale {
  int64_t sites;  // how many to rescale
  int64_t first = 0;
  int64_t all_sites, ranks = 1, rank = 0;
  float* scales;
  float* largest;
  float* peaks;
  const StepScalars* scalars = nullptr;
};

inline constexpr float kFp8Decay = 0.9f;

/// Where the factor of a site and its inverse are in `scales`.
constexpr int64_t fp8_scale_of(int64_t site) {
  return 8 * site;
}
constexpr int64_t fp8_inverse_of(int64_t site) {
  return 8 * site + 4;
}

/// Binades between the peak and the largest number: what a magnitude may grow from one step to the next. A
/// gradient's may grow more, and e5m2 has them to spare.
constexpr int fp8_headroom(Fp8Format format) {
  return format == Fp8Format::e4m3 ? 1 : 3;
}

constexpr Fp8Format fp8_format_of_site(int64_t site) {
  return site % 3 == 2 ? Fp8Format::e5m2 : Fp8Format::e4m3;
}

#ifdef PERCEIVER_CUDA
namespace cuda {
const char* fp8_obstacle();
bool fp8_gemm_quantizes(const Launch& launch, int64_t m, int64_t n);
bool fp8_layer_norm_possible(int64_t columns);
bool fp8_attention_possible(const Launch& launch, const Attention& k);
bool fp8_attention_possible(const Launch& launch, const AttentionBackward& k);
}  // namespace cuda
#endif

/// Why the launch's device cannot multiply in 8 bits: a phrase that follows its name, or null where it can.
inline const char* fp8_obstacle(const Launch& launch) {
#ifdef PERCEIVER_CUDA
  if (launch.device.kind == DeviceKind::cuda) return cuda::fp8_obstacle();
#endif
  (void)launch;
  return nullptr;
}

/// Whether fp8_gemm_quantize can compute a product [m, n] here, and gains by it.
inline bool fp8_gemm_quantizes(const Launch& launch, int64_t m, int64_t n) {
#ifdef PERCEIVER_CUDA
  if (launch.device.kind == DeviceKind::cuda) return cuda::fp8_gemm_quantizes(launch, m, n);
#endif
  (void)launch, (void)m, (void)n;
  return true;
}

/// Whether fp8_layer_norm and fp8_layer_norm_backward take rows of this many columns.
inline bool fp8_layer_norm_possible(const Launch& launch, int64_t columns) {
#ifdef PERCEIVER_CUDA
  if (launch.device.kind == DeviceKind::cuda) return cuda::fp8_layer_norm_possible(columns);
#endif
  (void)launch, (void)columns;
  return true;
}

/// Whether fp8_attention, or fp8_attention_backward, can compute these here.
template <typename Arguments>
bool fp8_attention_possible(const Launch& launch, const Arguments& k) {
#ifdef PERCEIVER_CUDA
  if (launch.device.kind == DeviceKind::cuda) return cuda::fp8_attention_possible(launch, k);
#endif
  (void)launch, (void)k;
  return true;
}

PERCEIVER_KERNEL(fp8_quantize, Fp8Quantize)
PERCEIVER_KERNEL(fp8_quantize_many, Fp8QuantizeMany)
PERCEIVER_KERNEL(fp8_gemm, Fp8Gemm)
PERCEIVER_KERNEL(fp8_gemm_quantize, Fp8GemmQuantize)
PERCEIVER_KERNEL(fp8_linear_rotary, Fp8LinearRotary)
PERCEIVER_KERNEL(fp8_layer_norm, Fp8LayerNorm)
PERCEIVER_KERNEL(fp8_layer_norm_backward, Fp8LayerNormBackward)
PERCEIVER_KERNEL(fp8_attention, Fp8Attention)
PERCEIVER_KERNEL(fp8_attention_backward, Fp8AttentionBackward)
PERCEIVER_KERNEL(fp8_rescale, Fp8Rescale)

}  // namespace perceiver::kernels
