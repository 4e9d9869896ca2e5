#include "core/check.h"
#include "ops/ops.h"

namespace perceiver::ops {
namespace {

/// d_weight (+)= d_preᵀ · x and d_x (+)= d_pre · weight.
void backward_products(Tape& tape, const Variable& x, const LinearParameters& parameters,
                       const Tensor& d_pre) {
  const DType type = d_pre.dtype();
  const int64_t rows = d_pre.shape()[0], out = d_pre.shape()[1], in = x.shape()[1];
  if (const GradientTarget d_weight = tape.target(parameters.weight)) {
    kernels::gemm(tape.launch(), {type, d_weight.tensor.dtype(), true, false, out, in, rows, d_pre.data(),
                                  out, x.value.data(), in, d_weight.tensor.data(), in, d_weight.accumulate});
  }
  if (const GradientTarget d_x = tape.target(x)) {
    kernels::gemm(tape.launch(), {type, type, false, false, rows, in, out, d_pre.data(), out,
                                  parameters.weight.value.data(), in, d_x.tensor.data(), in, d_x.accumulate});
  }
}

}  // namespace

Variable linear(Tape& tape, const Variable& x, const LinearParameters& parameters, Activation activation) {
  const Tensor& weight = parameters.weight.value;
  PERCEIVER_ASSERT(x.shape().rank() == 2 && weight.shape().rank() == 2 && x.shape()[1] == weight.shape()[1]);
  const int64_t rows = x.shape()[0], in = x.shape()[1], out = weight.shape()[0];
  const DType type = x.value.dtype();
  const bool activated = activation != Activation::identity;
  const Variable y = tape.result(type, {rows, out});
  const Tensor pre = activated ? Tensor::empty(tape.context(), type, {rows, out}) : y.value;
  kernels::gemm(tape.launch(), {type, type, false, true, rows, out, in, x.value.data(), in, weight.data(), in,
                                pre.data(), out, false, parameters.bias.value.data()});
  if (activated)
    kernels::bias_activation(tape.launch(),
                             {type, rows, out, activation, pre.data(), nullptr, y.value.data()});
  tape.record(
      "linear", y, [&tape, x, parameters, activation, kept = activated ? pre : Tensor(), d_y = y.gradient] {
        const Tensor d_out = d_y->tensor;
        const bool changes = activation != Activation::identity;
        // Overwritten in place unless another gradient shares the storage; `d_y` and `d_out` are two holders.
        const bool in_place = !changes || d_out.shared_by(2);
        const Tensor d_pre = in_place ? d_out : Tensor::empty(tape.context(), d_out.dtype(), d_out.shape());
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
