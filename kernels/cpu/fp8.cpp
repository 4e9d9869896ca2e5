// 8-bit floating-point operands on the CPU: the same numbers as on a GPU, by plain arithmetic. It exists to
// be compared with; nothing trains this way for its speed.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/elementwise.h"
#include "kernels/fp8.h"
#include "kernels/fp8_codes.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cpu {
namespace {

struct Values;
struct Derived;

/// A copy in aligned memory: how vectorised loops round depends on that.
template <typename Tag, typename T>
T* aligned_copy(const void* from, size_t elements) {
  T* const copy = scratch<Tag, T>(elements);
  std::copy_n(static_cast<const T*>(from), elements, copy);
  return copy;
}

/// activation(x), or d_out * activation'(x).
template <typename T>
const T* values_of(const Fp8Quantize& k) {
  const auto elements = static_cast<size_t>(k.rows * k.columns);
  T* const values = aligned_copy<Values, T>(k.x, elements);
  const BiasActivation apply{.type = k.type,
                             .rows = k.rows,
                             .columns = k.columns,
                             .activation = k.activation,
                             .pre = values,
                             .out = values};
  const bool changes = k.activation != Activation::identity;
  if (k.d_out == nullptr) {
    if (changes) bias_activation(apply);
    return values;
  }
  if (changes && derives_from_output(k.activation)) bias_activation(apply);
  T* const d_x = aligned_copy<Derived, T>(k.d_out, elements);
  bias_activation_backward({.type = k.type,
                            .rows = k.rows,
                            .columns = k.columns,
                            .activation = k.activation,
                            .kept = values,
                            .d_out = d_x,
                            .d_pre = changes ? d_x : nullptr});
  return d_x;
}

template <typename T>
void sum_columns(const Fp8Quantize& k, const T* values) {
  T* const sums = static_cast<T*>(k.column_sums);
  for (int64_t column = 0; column < k.columns; ++column) {
    double sum = 0;
    for (int64_t row = 0; row < k.rows; ++row) sum += values[row * k.columns + column];
    sums[column] = static_cast<T>(k.accumulate_sums ? sums[column] + sum : sum);
  }
}

template <typename T>
void quantize(const Fp8Quantize& k) {
  const T* const values = values_of<T>(k);
  for (int64_t i = 0; i < k.rows * k.columns; ++i)
    // Of two numbers that do not compare, max takes the first.
    *k.largest = std::max(*k.largest, static_cast<float>(std::abs(values[i])));
  for (int64_t row = 0; row < k.rows; ++row)
    for (int64_t column = 0; column < k.columns; ++column) {
      const int64_t at = row * k.columns + column;
      const uint8_t code = encode_fp8(static_cast<double>(values[at]) * k.scale[0], k.format);
      if (k.out != nullptr) static_cast<uint8_t*>(k.out)[at] = code;
      if (k.transposed != nullptr) static_cast<uint8_t*>(k.transposed)[column * k.rows + row] = code;
    }
  if (k.column_sums != nullptr) sum_columns(k, values);
}

struct FirstOperand;
struct SecondOperand;
struct Product;
struct Normal;
struct Gradients;

/// The numbers of an operand times `factor`. In aligned memory, again.
template <typename Operand, typename T>
const T* numbers(const void* codes, int64_t elements, Fp8Format format, float factor) {
  std::array<T, 256> table;
  for (size_t code = 0; code < table.size(); ++code)
    table[code] = static_cast<T>(decode_fp8(static_cast<uint8_t>(code), format)) * static_cast<T>(factor);
  T* const result = scratch<Operand, T>(static_cast<size_t>(elements));
  const auto* code = static_cast<const uint8_t*>(codes);
  std::transform(code, code + elements, result, [&](uint8_t each) { return table[each]; });
  return result;
}

template <typename T>
void multiply(const Fp8Gemm& g) {
  // Scales are powers of two: applying them to the operands changes no bit of the product.
  const T* const a = numbers<FirstOperand, T>(g.a, g.m * g.k, g.a_format, *g.a_inverse);
  const T* const b = numbers<SecondOperand, T>(g.b, g.n * g.k, g.b_format, *g.b_inverse);
  gemm({.type = g.type,
        .out_type = g.out_type,
        .transpose_b = true,
        .m = g.m,
        .n = g.n,
        .k = g.k,
        .a = a,
        .lda = g.k,
        .b = b,
        .ldb = g.k,
        .c = g.c,
        .ldc = g.n,
        .accumulate = g.accumulate,
        .bias = g.bias});
}

/// The power of two that leaves `peak` the headroom of its format.
float scale_for(float peak, Fp8Format format) {
  const int binades = std::ilogb(largest_of(format)) - std::ilogb(peak) - fp8_headroom(format);
  return std::ldexp(1.0f, std::clamp(binades, -126, 126));
}

/// An infinite magnitude says nothing about the scale.
float finite_or_none(float largest) {
  return std::isfinite(largest) ? largest : 0;
}

void rescale(const Fp8Rescale& k, int64_t site) {
  const auto at = [&](int64_t rank) -> float& { return k.largest[rank * k.all_sites + site]; };
  float& peak = k.peaks[site];
  if (k.scalars == nullptr) {
    if (peak != 0) return;
    peak = finite_or_none(at(k.rank));
  } else {
    float largest = 0;
    for (int64_t rank = 0; rank < k.ranks; ++rank) {
      largest = std::max(largest, finite_or_none(at(rank)));
      at(rank) = 0;
    }
    if (k.scalars->finite == 0) return;
    peak = std::max(largest, peak * kFp8Decay);
  }
  const float scale =
      peak >= std::numeric_limits<float>::min() ? scale_for(peak, fp8_format_of_site(site)) : 1;
  k.scales[fp8_scale_of(site)] = scale;
  k.scales[fp8_inverse_of(site)] = 1 / scale;
}

}  // namespace

void fp8_quantize(const Fp8Quantize& k) {
  PERCEIVER_ASSERT(k.rows % 16 == 0 && k.columns % 16 == 0);
  with_type(k.type, [&]<typename T>() { quantize<T>(k); });
}

void fp8_quantize_many(const Fp8QuantizeMany& k) {
  for (int64_t i = 0; i < k.count; ++i) fp8_quantize(k.each[i]);
}

void fp8_gemm(const Fp8Gemm& g) {
  PERCEIVER_ASSERT(g.type == g.out_type);
  with_type(g.type, [&]<typename T>() { multiply<T>(g); });
  if (g.addend != nullptr) add({.type = g.type, .elements = g.m * g.n, .source = g.addend, .target = g.c});
}

void fp8_gemm_quantize(const Fp8GemmQuantize& k) {
  Fp8Gemm product = k.product;
  Fp8Quantize quantize = k.quantize;
  const size_t elements = static_cast<size_t>(product.m * product.n);
  with_type(product.type, [&]<typename T>() {
    if (product.c == nullptr) product.c = scratch<Product, T>(elements);
  });
  fp8_gemm(product);
  (quantize.x == nullptr ? quantize.x : quantize.d_out) = product.c;
  fp8_quantize(quantize);
}

void fp8_linear_rotary(const Fp8LinearRotary& k) {
  fp8_gemm(k.product);
  rotate_parts(k.rotary, rotary);
}

void fp8_layer_norm(const Fp8LayerNorm& k) {
  ResidualLayerNorm norm = k.norm;
  Fp8Quantize quantize = k.quantize;
  const size_t elements = static_cast<size_t>(norm.rows * norm.columns);
  with_type(norm.type, [&]<typename T>() { norm.y = scratch<Normal, T>(elements); });
  residual_layer_norm(norm);
  quantize.x = norm.y;
  fp8_quantize(quantize);
}

void fp8_layer_norm_backward(const Fp8LayerNormBackward& k) {
  residual_layer_norm_backward(k.norm);
  Fp8Quantize quantize = k.quantize;
  quantize.x = k.norm.d_x;
  fp8_quantize(quantize);
}

void fp8_attention(const Fp8Attention& k) {
  attention(k.attention);
  Fp8Quantize quantize = k.quantize;
  quantize.x = k.attention.out;
  fp8_quantize(quantize);
}

void fp8_attention_backward(const Fp8AttentionBackward& k) {
  AttentionBackward backward = k.backward;
  Fp8Quantize quantize = k.quantize;
  with_type(quantize.type, [&]<typename T>() {
    T* const gradients = scratch<Gradients, T>(static_cast<size_t>(quantize.rows * quantize.columns));
    backward.d_q = gradients + k.q_column;
    backward.d_k = gradients + k.k_column;
    backward.d_v = gradients + k.v_column;
    quantize.x = gradients;
  });
  attention_backward(backward);
  fp8_quantize(quantize);
}

void fp8_rescale(const Fp8Rescale& k) {
  for (int64_t site = k.first; site < k.first + k.sites; ++site) rescale(k, site);
}

}  // namespace perceiver::kernels::cpu
