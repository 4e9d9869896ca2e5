#include "ops/wide_weight.h"

#include "base/check.h"
#include "kernels/dequantize.h"

namespace perceiver::ops {

Tensor wide_weight(Tape& tape, const LinearParameters& parameters, DType type) {
  const Tensor& weight = parameters.weight.value;
  if (weight.data() != nullptr) return weight;
  if (tape.recording())
    throw_user("the model's weights have eight bits alone and cannot be trained: load it with other weights");
  const Shape& shape = weight.shape();
  Tensor wide = Tensor::empty(tape.context(), type, shape);
  kernels::dequantize(tape.launch(), {.type = type,
                                      .weight_type = parameters.narrow_weight.dtype(),
                                      .rows = shape[0],
                                      .columns = shape[1],
                                      .weight = parameters.narrow_weight.data(),
                                      .scale = parameters.narrow_scale.data(),
                                      .out = wide.data()});
  return wide;
}

}  // namespace perceiver::ops
