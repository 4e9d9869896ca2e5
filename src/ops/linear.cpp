#include "base/check.h"
#include "kernels/gemm.h"
#include "ops/ops.h"

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
    kernels::gemm(tape.launch(), {type, d_weight.tensor.dtype(), true, false, out, in, rows, d_pre.data(),
                                  out, values.data(), in, d_weight.tensor.data(), in, d_weight.accumulate});
  }
  if (const GradientTarget d_x = tape.target(x)) {
    kernels::gemm(tape.launch(), {type, type, false, false, rows, in, out, d_pre.data(), out, weight.data(),
                                  in, d_x.tensor.data(), in, d_x.accumulate});
  }
}

/// Applies `activation` to `pre`, in place where that loses nothing.
Variable activate(Tape& tape, const Variable& pre, Activation activation) {
  const bool in_place = !tape.recording() || kernels::derives_from_output(activation);
  const Tensor& in = pre.value;
  const auto apply = [&tape, in, activation](const Tensor& out) {
    kernels::bias_activation(tape.launch(), {in.dtype(), in.shape()[0], in.shape()[1], activation, in.data(),
                                             nullptr, out.data()});
    return out;
  };
  if (in_place) return {apply(in), pre.gradient};
  const auto anew = [&tape, in, apply] {
    return apply(Tensor::empty(tape.context(), in.dtype(), in.shape()));
  };
  return {anew(), pre.gradient, std::make_shared<const std::function<Tensor()>>(anew)};
}

/// pre = x · weightᵀ + bias.
void product(Tape& tape, const Variable& x, const LinearParameters& parameters, const Tensor& pre) {
  if (tape.independent_rows()) return skinny_gemm(tape, x.value, parameters, pre);
  const Tensor& weight = parameters.weight.value;
  const int64_t rows = x.shape()[0], in = x.shape()[1], out = weight.shape()[0];
  const DType type = x.value.dtype();
  const void* bias = parameters.bias.value.data();
  kernels::gemm(tape.launch(), {type, type, false, true, rows, out, in, x.value.data(), in, weight.data(), in,
                                pre.data(), out, false, bias});
}

}  // namespace

void skinny_gemm(Tape& tape, const Tensor& x, const LinearParameters& parameters, const Tensor& out) {
  const Tensor& weight = parameters.narrow ? parameters.narrow : parameters.weight.value;
  const int64_t rows = x.shape()[0], depth = weight.shape()[1], columns = weight.shape()[0];
  PERCEIVER_ASSERT(x.shape()[1] == depth && out.elements() == rows * columns && out.dtype() == x.dtype());
  kernels::skinny_gemm(tape.launch(), {x.dtype(), weight.dtype(), rows, columns, depth, x.data(),
                                       weight.data(), parameters.bias.value.data(), out.data()});
}

Variable linear(Tape& tape, const Variable& x, const LinearParameters& parameters, Activation activation) {
  const Tensor& weight = parameters.weight.value;
  PERCEIVER_ASSERT(x.shape().rank() == 2 && weight.shape().rank() == 2 && x.shape()[1] == weight.shape()[1]);
  const Variable pre = tape.result(x.value.dtype(), {x.shape()[0], weight.shape()[0]});
  product(tape, x, parameters, pre.value);
  const bool changes = activation != Activation::identity;
  const Variable y = changes ? activate(tape, pre, activation) : pre;
  tape.record("linear", y,
              [&tape, x = x.kept(), parameters, activation, changes, kept = changes ? pre.value : Tensor(),
               d_y = y.gradient] {
                const Tensor d_out = d_y->tensor;
                // Overwritten in place unless another gradient shares the storage; `d_y` and `d_out` hold it.
                const bool in_place = !changes || d_out.shared_by(2);
                const Tensor d_pre =
                    in_place ? d_out : Tensor::empty(tape.context(), d_out.dtype(), d_out.shape());
                const GradientTarget d_bias = tape.target(parameters.bias);
                kernels::bias_activation_backward(
                    tape.launch(),
                    {d_out.dtype(), d_out.shape()[0], d_out.shape()[1], activation, kept.data(), d_out.data(),
                     changes ? d_pre.data() : nullptr, d_bias.tensor.data(), d_bias.accumulate});
                backward_products(tape, x, parameters, d_pre);
              });
  return y;
}

}  // namespace perceiver::ops
