#include "base/check.h"
#include "kernels/gemm.h"
#include "ops/checks.h"
#include "ops/fp8.h"
#include "ops/skinny_gemm.h"
#include "ops/wide_weight.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {
namespace {

/// d_weight (+)= d_preᵀ · x and d_x (+)= d_pre · weight.
void backward_products(Tape& tape, const Variable& x, const LinearParameters& parameters,
                       const Tensor& d_pre) {
  const DType type = d_pre.dtype();
  const Tensor& weight = parameters.weight.value;
  const int64_t rows = d_pre.shape()[0], out = weight.shape()[0], in = weight.shape()[1];
  if (const GradientTarget d_weight = tape.target(parameters.weight)) {
    const Tensor values = x.read();
    kernels::gemm(tape.launch(), {.type = type,
                                  .out_type = d_weight.tensor.dtype(),
                                  .transpose_a = true,
                                  .m = out,
                                  .n = in,
                                  .k = rows,
                                  .a = d_pre.data(),
                                  .lda = out,
                                  .b = values.data(),
                                  .ldb = in,
                                  .c = d_weight.tensor.data(),
                                  .ldc = in,
                                  .accumulate = d_weight.accumulate});
  }
  if (const GradientTarget d_x = tape.target(x)) {
    kernels::gemm(tape.launch(), {.type = type,
                                  .out_type = type,
                                  .m = rows,
                                  .n = in,
                                  .k = out,
                                  .a = d_pre.data(),
                                  .lda = out,
                                  .b = weight.data(),
                                  .ldb = in,
                                  .c = d_x.tensor.data(),
                                  .ldc = in,
                                  .accumulate = d_x.accumulate});
  }
}

/// Applies `activation` to `pre`, in place if backward does not need `pre`.
Variable activate(Tape& tape, const Variable& pre, Activation activation) {
  const bool in_place = !tape.recording() || kernels::derives_from_output(activation);
  const Tensor& in = pre.value;
  const auto apply = [&tape, in, activation](const Tensor& out) {
    kernels::bias_activation(tape.launch(), {.type = in.dtype(),
                                             .rows = in.shape()[0],
                                             .columns = in.shape()[1],
                                             .activation = activation,
                                             .pre = in.data(),
                                             .out = out.data()});
    return out;
  };
  if (in_place) return {apply(in), pre.gradient};
  const auto out_of_place = [&tape, in, apply] {
    return apply(Tensor::empty(tape.context(), in.dtype(), in.shape()));
  };
  return {out_of_place(), pre.gradient, std::make_shared<const std::function<Tensor()>>(out_of_place)};
}

/// pre = x · weightᵀ + bias.
void product(Tape& tape, const Variable& x, const LinearParameters& parameters, const Tensor& pre) {
  if (tape.batch_invariant()) return skinny_gemm(tape, x.value, parameters, pre);
  const DType type = x.value.dtype();
  const Tensor weight = wide_weight(tape, parameters, type);
  const int64_t rows = x.shape()[0], in = x.shape()[1], out = weight.shape()[0];
  const void* bias = parameters.bias.value.data();
  kernels::gemm(tape.launch(), {.type = type,
                                .out_type = type,
                                .transpose_b = true,
                                .m = rows,
                                .n = out,
                                .k = in,
                                .a = x.value.data(),
                                .lda = in,
                                .b = weight.data(),
                                .ldb = in,
                                .c = pre.data(),
                                .ldc = out,
                                .bias = bias});
}

void check_linear(const Tape& tape, const Tensor& x, const LinearParameters& parameters) {
  const Tensor& weight = parameters.weight.value;
  check_activation(tape, "linear", "x", x);
  check_columns(tape, "linear", "weight", weight, x.dtype(), x.shape()[1]);
  if (parameters.bias.value)
    check_vector(tape, "linear", "bias", parameters.bias.value, x.dtype(), weight.shape()[0]);
}

}  // namespace

const Tensor& skinny_weight(const LinearParameters& parameters) {
  const Tensor& narrow = parameters.narrow_weight;
  const bool reads = narrow && (narrow.device().kind == DeviceKind::cuda || narrow.dtype() != DType::e4m3);
  return reads ? narrow : parameters.weight.value;
}

void skinny_gemm(Tape& tape, const Tensor& x, const LinearParameters& parameters, const Tensor& out) {
  const Tensor& weight = skinny_weight(parameters);
  const int64_t rows = x.shape()[0], depth = weight.shape()[1], columns = weight.shape()[0];
  PERCEIVER_ASSERT(x.shape()[1] == depth && out.elements() == rows * columns && out.dtype() == x.dtype());
  kernels::skinny_gemm(tape.launch(), {.type = x.dtype(),
                                       .weight_type = weight.dtype(),
                                       .rows = rows,
                                       .columns = columns,
                                       .depth = depth,
                                       .x = x.data(),
                                       .weight = weight.data(),
                                       .weight_scale = parameters.narrow_scale.data(),
                                       .bias = parameters.bias.value.data(),
                                       .out = out.data()});
}

Variable linear(Tape& tape, const Variable& x, const LinearParameters& parameters, Activation activation) {
  const Tensor& weight = parameters.weight.value;
  check_linear(tape, x.value, parameters);
  if (activation == Activation::identity && multiplies_in_fp8(tape, x, parameters))
    return fp8_linear(tape, x, parameters);
  const Variable pre = tape.result(x.value.dtype(), {x.shape()[0], weight.shape()[0]});
  product(tape, x, parameters, pre.value);
  const bool changes = activation != Activation::identity;
  const Variable y = changes ? activate(tape, pre, activation) : pre;
  tape.record("linear", y,
              [&tape, x = x.kept(), parameters, activation, changes, kept = changes ? pre.value : Tensor(),
               d_y = y.gradient] {
                const Tensor d_out = d_y->tensor;
                // In place unless another gradient shares the storage, which `d_y` and `d_out` hold.
                const bool in_place = !changes || d_out.shared_by(2);
                const Tensor d_pre =
                    in_place ? d_out : Tensor::empty(tape.context(), d_out.dtype(), d_out.shape());
                const GradientTarget d_bias = tape.target(parameters.bias);
                kernels::bias_activation_backward(tape.launch(), {.type = d_out.dtype(),
                                                                  .rows = d_out.shape()[0],
                                                                  .columns = d_out.shape()[1],
                                                                  .activation = activation,
                                                                  .kept = kept.data(),
                                                                  .d_out = d_out.data(),
                                                                  .d_pre = changes ? d_pre.data() : nullptr,
                                                                  .d_bias = d_bias.tensor.data(),
                                                                  .accumulate_bias = d_bias.accumulate});
                backward_products(tape, x, parameters, d_pre);
              });
  return y;
}

Variable feed_forward(Tape& tape, const Variable& x, const LinearParameters& first, Activation activation,
                      const LinearParameters& second) {
  const bool in_fp8 = multiplies_in_fp8(tape, x, first) && second.fp8 && second.weight.shape()[0] % 16 == 0;
  if (!in_fp8) return linear(tape, linear(tape, x, first, activation), second);
  check_linear(tape, x.value, first);
  check_columns(tape, "linear", "weight", second.weight.value, x.value.dtype(), first.weight.shape()[0]);
  return fp8_feed_forward(tape, x, first, activation, second);
}

}  // namespace perceiver::ops
