#include "kernels/fp8.h"
#include "ops/bias_gradient.h"
#include "ops/checks.h"
#include "ops/fp8.h"

namespace perceiver::ops {
namespace {

using kernels::Fp8Format;
using kernels::Fp8Gemm;
using kernels::Fp8Quantize;

enum class Layout { rows, both };

/// Where an operand of `what`'s shape goes, with the scale of its site: completes `what`, which has the
/// source.
Fp8Codes target(Tape& tape, const Fp8Layer& layer, Fp8Operand operand, Layout layout, Fp8Quantize& what) {
  const Fp8Recipe& recipe = *layer.recipe;
  const int64_t site = layer.first_site + operand;
  Fp8Codes result;
  result.inverse = recipe.inverse_scale(site);
  result.format = kernels::fp8_format_of_site(site);
  result.rows = Tensor::empty(tape.context(), DType::u8, {what.rows, what.columns});
  if (layout == Layout::both)
    result.columns = Tensor::empty(tape.context(), DType::u8, {what.columns, what.rows});
  what.format = result.format;
  what.scale = recipe.scale(site);
  what.largest = recipe.own_largest(site);
  what.out = result.rows.data();
  what.transposed = result.columns.data();
  return result;
}

/// Sets the scale of a site that has none yet.
void calibrate(Tape& tape, const Fp8Layer& layer, Fp8Operand operand, const Fp8Quantize& what) {
  const Fp8Recipe& recipe = *layer.recipe;
  Fp8Quantize measure = what;
  measure.column_sums = nullptr;
  kernels::fp8_quantize(tape.launch(), measure);
  kernels::fp8_rescale(tape.launch(), recipe.rescaling(layer.first_site + operand, 1));
}

Fp8Codes quantise(Tape& tape, const LinearParameters& parameters, Fp8Operand operand, Layout layout,
                  Fp8Quantize what) {
  const Fp8Codes result = target(tape, *parameters.fp8, operand, layout, what);
  if (parameters.fp8->recipe->calibrating) calibrate(tape, *parameters.fp8, operand, what);
  kernels::fp8_quantize(tape.launch(), what);
  return result;
}

Fp8Quantize source(const Tensor& x) {
  Fp8Quantize what{};
  what.type = x.dtype();
  what.rows = x.shape()[0];
  what.columns = x.shape()[1];
  what.x = x.data();
  return what;
}

/// The sums of what is quantised, a gradient, are that of the bias.
void add_bias_gradient(Tape& tape, const LinearParameters& parameters, Fp8Quantize& what) {
  const GradientTarget d_bias = tape.target(parameters.bias);
  what.column_sums = d_bias.tensor.data();
  what.accumulate_sums = d_bias.accumulate;
}

/// Of an input, which backward reads transposed.
Layout input_layout(const Tape& tape) {
  return tape.recording() ? Layout::both : Layout::rows;
}

Fp8Codes input_of(Tape& tape, const Variable& x, const LinearParameters& parameters) {
  return x.codes ? *x.codes : quantise(tape, parameters, kFp8Input, input_layout(tape), source(x.value));
}

/// The gradient of the layer's result; also writes that of the bias.
Fp8Codes quantise_gradient(Tape& tape, const LinearParameters& parameters, Fp8Quantize what) {
  add_bias_gradient(tape, parameters, what);
  return quantise(tape, parameters, kFp8Gradient, Layout::both, what);
}

/// The same of a gradient that may have come with its column sums, and quantised.
Fp8Codes quantise_gradient(Tape& tape, const LinearParameters& parameters, const Gradient& d_y) {
  if (!d_y.column_sums && (!d_y.codes || parameters.bias.gradient))
    return quantise_gradient(tape, parameters, source(d_y.tensor));
  if (d_y.column_sums) tape.write(tape.target(parameters.bias), d_y.column_sums);
  if (d_y.codes) return *d_y.codes;
  return quantise(tape, parameters, kFp8Gradient, Layout::both, source(d_y.tensor));
}

Fp8Codes weight_of(const LinearParameters& parameters) {
  const Fp8Layer& layer = *parameters.fp8;
  const int64_t site = layer.first_site + kFp8Weight;
  return {.rows = layer.weight_rows,
          .columns = layer.weight_columns,
          .inverse = layer.recipe->inverse_scale(site),
          .format = kernels::fp8_format_of_site(site)};
}

/// A · Bᵀ of the codes of `a` and `b`, to where c points.
Fp8Gemm product_of(DType type, const Fp8Codes& a, const Tensor& a_codes, const Fp8Codes& b,
                   const Tensor& b_codes) {
  return {.type = type,
          .out_type = type,
          .m = a_codes.shape()[0],
          .n = b_codes.shape()[0],
          .k = a_codes.shape()[1],
          .a_format = a.format,
          .b_format = b.format,
          .a = a_codes.data(),
          .a_inverse = a.inverse,
          .b = b_codes.data(),
          .b_inverse = b.inverse,
          .c = nullptr};
}

/// x · weightᵀ + bias.
Fp8Gemm forward_product(const Fp8Codes& x, const Fp8Codes& weight, const LinearParameters& parameters) {
  Fp8Gemm product = product_of(parameters.weight.value.dtype(), x, x.rows, weight, weight.rows);
  product.bias = parameters.bias.value.data();
  return product;
}

/// y = x · weightᵀ + bias, plus `addend` if there is one.
void product(Tape& tape, const Fp8Codes& x, const LinearParameters& parameters, const Tensor& y,
             const Tensor& addend = {}) {
  const Fp8Codes weight = weight_of(parameters);
  Fp8Gemm product = forward_product(x, weight, parameters);
  product.addend = addend.data();
  product.c = y.data();
  kernels::fp8_gemm(tape.launch(), product);
}

/// d_weight (+)= dᵀ · x. A sum over all rows, so it is summed precisely.
void weight_gradient(Tape& tape, const Fp8Codes& d, const Fp8Codes& x, const LinearParameters& parameters) {
  const GradientTarget d_weight = tape.target(parameters.weight);
  if (!d_weight) return;
  Fp8Gemm product = product_of(parameters.weight.value.dtype(), d, d.columns, x, x.columns);
  product.out_type = d_weight.tensor.dtype();
  product.c = d_weight.tensor.data();
  product.accumulate = d_weight.accumulate;
  product.precise = true;
  kernels::fp8_gemm(tape.launch(), product);
}

/// d_x (+)= d · weight.
void input_gradient(Tape& tape, const Fp8Codes& d, const LinearParameters& parameters,
                    const GradientTarget& d_x) {
  const Fp8Codes weight = weight_of(parameters);
  Fp8Gemm product = product_of(d_x.tensor.dtype(), d, d.rows, weight, weight.columns);
  product.c = d_x.tensor.data();
  product.accumulate = d_x.accumulate;
  kernels::fp8_gemm(tape.launch(), product);
}

/// Whether a product [m, n] is quantised with the scale of a site of `layer` as it is computed. Calibration
/// has to see it first.
bool in_one_pass(const Tape& tape, const Fp8Layer& layer, int64_t m, int64_t n) {
  return !layer.recipe->calibrating && kernels::fp8_gemm_quantizes(tape.launch(), m, n);
}

/// The hidden layer of a feed-forward layer, the input of its `second` one; pre = x · firstᵀ + bias, which is
/// allocated.
Fp8Codes hidden_layer(Tape& tape, const Fp8Codes& x, const LinearParameters& first, Activation activation,
                      const LinearParameters& second, const Tensor& pre) {
  Fp8Quantize activated = source(pre);
  activated.activation = activation;
  if (!in_one_pass(tape, *second.fp8, pre.shape()[0], pre.shape()[1])) {
    product(tape, x, first, pre);
    return quantise(tape, second, kFp8Input, input_layout(tape), activated);
  }
  activated.x = nullptr;
  const Fp8Codes weight = weight_of(first);
  const Fp8Codes hidden = target(tape, *second.fp8, kFp8Input, input_layout(tape), activated);
  Fp8Gemm product = forward_product(x, weight, first);
  if (tape.recording()) product.c = pre.data();
  kernels::fp8_gemm_quantize(tape.launch(), {product, activated});
  return hidden;
}

/// The gradient of `pre` from that of the second layer's result, and that of the first layer's bias.
Fp8Codes hidden_gradient(Tape& tape, const Fp8Codes& d, const LinearParameters& first, Activation activation,
                         const LinearParameters& second, const Tensor& pre) {
  Fp8Quantize derived = source(pre);
  derived.activation = activation;
  if (!in_one_pass(tape, *first.fp8, pre.shape()[0], pre.shape()[1])) {
    const GradientTarget d_hidden{Tensor::empty(tape.context(), pre.dtype(), pre.shape())};
    input_gradient(tape, d, second, d_hidden);
    derived.d_out = d_hidden.tensor.data();
    return quantise_gradient(tape, first, derived);
  }
  const Fp8Codes weight = weight_of(second);
  add_bias_gradient(tape, first, derived);
  const Fp8Codes d_pre = target(tape, *first.fp8, kFp8Gradient, Layout::both, derived);
  kernels::fp8_gemm_quantize(tape.launch(),
                             {product_of(pre.dtype(), d, d.rows, weight, weight.columns), derived});
  return d_pre;
}

/// What backward keeps of an input: its transposed copy.
Fp8Codes kept(const Fp8Codes& x) {
  return {.rows = {}, .columns = x.columns, .inverse = x.inverse, .format = x.format};
}

void record_linear(Tape& tape, const Variable& x, const Fp8Codes& input, const LinearParameters& parameters,
                   const Variable& y, const Variable& residual = {}) {
  tape.record("linear", y,
              [&tape, x = x.gradient_only(), input = kept(input), parameters,
               residual = residual.gradient_only(), d_y = y.gradient] {
                tape.give(residual, d_y->tensor);
                const Fp8Codes d = quantise_gradient(tape, parameters, *d_y);
                weight_gradient(tape, d, input, parameters);
                if (const GradientTarget d_x = tape.target(x)) input_gradient(tape, d, parameters, d_x);
              });
}

/// Where LayerNorm's kernels leave an operand of `layer`: nowhere, if that has to see values to set its
/// scale, or a check has to.
std::optional<Fp8Matrix> made_in_fp8(Tape& tape, const Fp8Layer& layer, Fp8Operand operand, Layout layout,
                                     DType type, const Shape& shape) {
  if (layer.recipe->calibrating || tape.finite_check() != nullptr) return std::nullopt;
  Fp8Quantize quantize{};
  quantize.type = type;
  quantize.rows = shape[0];
  quantize.columns = shape[1];
  const Fp8Codes codes = target(tape, layer, operand, layout, quantize);
  return Fp8Matrix{std::make_shared<const Fp8Codes>(codes), quantize};
}

bool multiplies_rows_in_fp8(const Tape& tape, int64_t rows, const LinearParameters& parameters) {
  return parameters.fp8 && tape.training() && parameters.fp8->weight_rows && rows % 16 == 0;
}

}  // namespace

bool multiplies_in_fp8(const Tape& tape, const Variable& x, const LinearParameters& parameters) {
  return multiplies_rows_in_fp8(tape, x.shape()[0], parameters);
}

std::optional<Fp8Matrix> input_in_fp8(Tape& tape, const LinearParameters* reader, DType type, int64_t rows,
                                      int64_t columns) {
  if (reader == nullptr || !multiplies_rows_in_fp8(tape, rows, *reader)) return std::nullopt;
  return made_in_fp8(tape, *reader->fp8, kFp8Input, input_layout(tape), type, {rows, columns});
}

std::optional<Fp8Matrix> gradient_in_fp8(Tape& tape, const Variable& result) {
  if (!result.gradient || !result.wants_codes) return std::nullopt;
  const Gradient& gradient = *result.gradient;
  return made_in_fp8(tape, *result.wants_codes, kFp8Gradient, Layout::both, gradient.dtype, gradient.shape);
}

Variable fp8_linear(Tape& tape, const Variable& x, const LinearParameters& parameters,
                    const Variable& residual) {
  const Fp8Codes input = input_of(tape, x, parameters);
  Variable y = tape.result(x.value.dtype(), {x.shape()[0], parameters.weight.shape()[0]});
  y.wants_column_sums = wants_column_sums(parameters);
  y.wants_codes = parameters.fp8;
  if (residual.value) check_same(tape, "linear", "residual", residual.value, y.value);
  product(tape, input, parameters, y.value, residual.value);
  record_linear(tape, x, input, parameters, y, residual);
  return y;
}

void fp8_linear_rotary(Tape& tape, const Variable& x, const LinearParameters& parameters, const Variable& y,
                       const kernels::LinearRotary& rotary) {
  const Fp8Codes input = input_of(tape, x, parameters);
  Fp8Gemm product = forward_product(input, weight_of(parameters), parameters);
  product.c = y.value.data();
  kernels::fp8_linear_rotary(tape.launch(), {product, rotary});
  record_linear(tape, x, input, parameters, y);
}

Variable fp8_feed_forward(Tape& tape, const Variable& x, const LinearParameters& first, Activation activation,
                          const LinearParameters& second, const Variable& residual) {
  const DType type = x.value.dtype();
  const int64_t rows = x.shape()[0];
  const Fp8Codes input = input_of(tape, x, first);
  const Tensor pre = Tensor::empty(tape.context(), type, {rows, first.weight.shape()[0]});
  const Fp8Codes hidden = hidden_layer(tape, input, first, activation, second, pre);
  Variable y = tape.result(type, {rows, second.weight.shape()[0]});
  y.wants_column_sums = wants_column_sums(second);
  y.wants_codes = second.fp8;
  if (residual.value) check_same(tape, "feed_forward", "residual", residual.value, y.value);
  product(tape, hidden, second, y.value, residual.value);
  tape.record("feed_forward", y,
              [&tape, x = x.gradient_only(), input = kept(input), pre, hidden = kept(hidden), first,
               activation, second, residual = residual.gradient_only(), d_y = y.gradient] {
                tape.give(residual, d_y->tensor);
                const Fp8Codes d = quantise_gradient(tape, second, *d_y);
                weight_gradient(tape, d, hidden, second);
                const Fp8Codes d_pre = hidden_gradient(tape, d, first, activation, second, pre);
                weight_gradient(tape, d_pre, input, first);
                if (const GradientTarget d_x = tape.target(x)) input_gradient(tape, d_pre, first, d_x);
              });
  return y;
}

}  // namespace perceiver::ops
