#include "kernels/fp8.h"
#include "ops/fp8.h"

namespace perceiver::ops {
namespace {

using kernels::Fp8Format;
using kernels::Fp8Quantize;

enum Operand : int64_t { kInput, kWeight, kGradient };

/// An 8-bit matrix and where its scale is.
struct Quantised {
  Tensor rows;     ///< u8 [rows, columns], if wanted
  Tensor columns;  ///< u8 [columns, rows], if wanted
  const float* inverse = nullptr;
  Fp8Format format = Fp8Format::e4m3;
};

enum class Layout { rows, columns, both };

/// Quantises with the scale of the operand's site, which it sets first where that is still to be done. `what`
/// has the source.
Quantised quantise(Tape& tape, const LinearParameters& parameters, Operand operand, Layout layout,
                   Fp8Quantize what) {
  const Fp8Layer& layer = *parameters.fp8;
  const Fp8Recipe& recipe = *layer.recipe;
  const int64_t site = layer.first_site + operand;
  Quantised result;
  result.inverse = recipe.scales.as<float>() + kernels::fp8_inverse_of(site);
  result.format = kernels::fp8_format_of_site(site);
  if (layout != Layout::columns)
    result.rows = Tensor::empty(tape.context(), DType::u8, {what.rows, what.columns});
  if (layout != Layout::rows)
    result.columns = Tensor::empty(tape.context(), DType::u8, {what.columns, what.rows});
  what.format = result.format;
  what.scale = recipe.scales.as<float>() + kernels::fp8_scale_of(site);
  what.largest = recipe.largest.as<float>() + recipe.rank * recipe.sites() + site;
  what.out = result.rows.data();
  what.transposed = result.columns.data();
  if (recipe.calibrating) {
    Fp8Quantize measure = what;
    measure.column_sums = nullptr;
    kernels::fp8_quantize(tape.launch(), measure);
    kernels::fp8_rescale(tape.launch(), {.sites = 1,
                                         .first = site,
                                         .all_sites = recipe.sites(),
                                         .ranks = recipe.ranks,
                                         .rank = recipe.rank,
                                         .scales = recipe.scales.as<float>(),
                                         .largest = recipe.largest.as<float>(),
                                         .peaks = recipe.peaks.as<float>()});
  }
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

Quantised quantise_input(Tape& tape, const LinearParameters& parameters, const Fp8Quantize& what) {
  return quantise(tape, parameters, kInput, tape.recording() ? Layout::both : Layout::rows, what);
}

/// The gradient of the layer's result; also writes that of the bias.
Quantised quantise_gradient(Tape& tape, const LinearParameters& parameters, Fp8Quantize what) {
  const GradientTarget d_bias = tape.target(parameters.bias);
  what.column_sums = d_bias.tensor.data();
  what.accumulate_sums = d_bias.accumulate;
  return quantise(tape, parameters, kGradient, Layout::both, what);
}

/// y = x · weightᵀ + bias.
void product(Tape& tape, const Quantised& x, const LinearParameters& parameters, const Tensor& y) {
  const Quantised weight = quantise(tape, parameters, kWeight, Layout::rows, source(parameters.weight.value));
  kernels::fp8_gemm(tape.launch(), {.type = y.dtype(),
                                    .out_type = y.dtype(),
                                    .m = y.shape()[0],
                                    .n = y.shape()[1],
                                    .k = x.rows.shape()[1],
                                    .a = x.rows.data(),
                                    .a_inverse = x.inverse,
                                    .b = weight.rows.data(),
                                    .b_inverse = weight.inverse,
                                    .c = y.data(),
                                    .bias = parameters.bias.value.data()});
}

/// d_weight (+)= dᵀ · x. A sum over all rows, so it is summed precisely.
void weight_gradient(Tape& tape, const Quantised& d, const Quantised& x, const LinearParameters& parameters) {
  const GradientTarget d_weight = tape.target(parameters.weight);
  if (!d_weight) return;
  kernels::fp8_gemm(tape.launch(), {.type = parameters.weight.value.dtype(),
                                    .out_type = d_weight.tensor.dtype(),
                                    .m = d.columns.shape()[0],
                                    .n = x.columns.shape()[0],
                                    .k = x.columns.shape()[1],
                                    .a_format = d.format,
                                    .b_format = x.format,
                                    .a = d.columns.data(),
                                    .a_inverse = d.inverse,
                                    .b = x.columns.data(),
                                    .b_inverse = x.inverse,
                                    .c = d_weight.tensor.data(),
                                    .accumulate = d_weight.accumulate,
                                    .precise = true});
}

/// d_x (+)= d · weight.
void input_gradient(Tape& tape, const Quantised& d, const LinearParameters& parameters,
                    const GradientTarget& d_x) {
  const Quantised weight =
      quantise(tape, parameters, kWeight, Layout::columns, source(parameters.weight.value));
  kernels::fp8_gemm(tape.launch(), {.type = d_x.tensor.dtype(),
                                    .out_type = d_x.tensor.dtype(),
                                    .m = d.rows.shape()[0],
                                    .n = weight.columns.shape()[0],
                                    .k = d.rows.shape()[1],
                                    .a_format = d.format,
                                    .b_format = weight.format,
                                    .a = d.rows.data(),
                                    .a_inverse = d.inverse,
                                    .b = weight.columns.data(),
                                    .b_inverse = weight.inverse,
                                    .c = d_x.tensor.data(),
                                    .accumulate = d_x.accumulate});
}

/// What backward keeps of an input: its transposed copy.
Quantised kept(const Quantised& x) {
  return {.rows = {}, .columns = x.columns, .inverse = x.inverse, .format = x.format};
}

}  // namespace

bool multiplies_in_fp8(const Tape& tape, const Variable& x, const LinearParameters& parameters) {
  if (!parameters.fp8 || !tape.training()) return false;
  const Shape &in = x.shape(), &weight = parameters.weight.value.shape();
  return in[0] % 16 == 0 && in[1] % 16 == 0 && weight[0] % 16 == 0;
}

Variable fp8_linear(Tape& tape, const Variable& x, const LinearParameters& parameters) {
  const Quantised input = quantise_input(tape, parameters, source(x.value));
  const Variable y = tape.result(x.value.dtype(), {x.shape()[0], parameters.weight.shape()[0]});
  product(tape, input, parameters, y.value);
  tape.record("linear", y, [&tape, x = x.gradient_only(), input = kept(input), parameters, d_y = y.gradient] {
    const Quantised d = quantise_gradient(tape, parameters, source(d_y->tensor));
    weight_gradient(tape, d, input, parameters);
    if (const GradientTarget d_x = tape.target(x)) input_gradient(tape, d, parameters, d_x);
  });
  return y;
}

Variable fp8_feed_forward(Tape& tape, const Variable& x, const LinearParameters& first, Activation activation,
                          const LinearParameters& second) {
  const DType type = x.value.dtype();
  const int64_t rows = x.shape()[0];
  const Quantised input = quantise_input(tape, first, source(x.value));
  const Tensor pre = Tensor::empty(tape.context(), type, {rows, first.weight.shape()[0]});
  product(tape, input, first, pre);
  Fp8Quantize activated = source(pre);
  activated.activation = activation;
  const Quantised hidden = quantise_input(tape, second, activated);
  const Variable y = tape.result(type, {rows, second.weight.shape()[0]});
  product(tape, hidden, second, y.value);
  tape.record("feed_forward", y,
              [&tape, x = x.gradient_only(), input = kept(input), pre, hidden = kept(hidden), first,
               activation, second, d_y = y.gradient] {
                const Quantised d = quantise_gradient(tape, second, source(d_y->tensor));
                weight_gradient(tape, d, hidden, second);
                const GradientTarget d_hidden{Tensor::empty(tape.context(), pre.dtype(), pre.shape())};
                input_gradient(tape, d, second, d_hidden);
                Fp8Quantize derived = source(pre);
                derived.activation = activation;
                derived.d_out = d_hidden.tensor.data();
                const Quantised d_pre = quantise_gradient(tape, first, derived);
                weight_gradient(tape, d_pre, input, first);
                if (const GradientTarget d_x = tape.target(x)) input_gradient(tape, d_pre, first, d_x);
              });
  return y;
}

}  // namespace perceiver::ops
