#include "base/check.h"
#include "kernels/gemm.h"
#include "ops/bias_gradient.h"
#include "ops/checks.h"
#include "ops/fp8.h"
#include "ops/linear_rotary.h"
#include "ops/rotary_launch.h"
#include "ops/skinny_gemm.h"
#include "ops/wide_weight.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {
namespace {

/// d_weight (+)= d_preᵀ · x.
void multiply_by_input(Tape& tape, const Tensor& x, const LinearParameters& parameters, const Tensor& d_pre) {
  const GradientTarget d_weight = tape.target(parameters.weight);
  if (!d_weight) return;
  const int64_t out = parameters.weight.shape()[0], in = parameters.weight.shape()[1];
  kernels::gemm(tape.launch(), {.type = d_pre.dtype(),
                                .out_type = d_weight.tensor.dtype(),
                                .transpose_a = true,
                                .m = out,
                                .n = in,
                                .k = d_pre.shape()[0],
                                .a = d_pre.data(),
                                .lda = out,
                                .b = x.data(),
                                .ldb = in,
                                .c = d_weight.tensor.data(),
                                .ldc = in,
                                .accumulate = d_weight.accumulate});
}

/// The same, once x is there. A step that looks for the operation at fault makes x at once, so that the
/// operation is this one.
void weight_gradient(Tape& tape, const Variable& x, const LinearParameters& parameters, const Tensor& d_pre) {
  if (tape.finite_check() != nullptr) return multiply_by_input(tape, x.read(), parameters, d_pre);
  x.read_later([&tape, parameters, d_pre](const Tensor& values) {
    multiply_by_input(tape, values, parameters, d_pre);
  });
}

/// d_x (+)= d_pre · weight.
void input_gradient(Tape& tape, const Variable& x, const LinearParameters& parameters, const Tensor& d_pre) {
  const GradientTarget d_x = tape.target(x);
  if (!d_x) return;
  const int64_t out = parameters.weight.shape()[0], in = parameters.weight.shape()[1];
  kernels::gemm(tape.launch(), {.type = d_pre.dtype(),
                                .out_type = d_pre.dtype(),
                                .m = d_pre.shape()[0],
                                .n = in,
                                .k = out,
                                .a = d_pre.data(),
                                .lda = out,
                                .b = parameters.weight.value.data(),
                                .ldb = in,
                                .c = d_x.tensor.data(),
                                .ldc = in,
                                .accumulate = d_x.accumulate});
}

/// d_bias (+)= column sums of the gradient of the result.
void bias_gradient(Tape& tape, const LinearParameters& parameters, const Gradient& d_y) {
  const GradientTarget d_bias = tape.target(parameters.bias);
  if (!d_bias) return;
  if (d_y.column_sums) return tape.write(d_bias, d_y.column_sums);
  const Tensor& d_out = d_y.tensor;
  kernels::bias_activation_backward(tape.launch(), {.type = d_out.dtype(),
                                                    .rows = d_out.shape()[0],
                                                    .columns = d_out.shape()[1],
                                                    .activation = Activation::identity,
                                                    .d_out = d_out.data(),
                                                    .d_bias = d_bias.tensor.data(),
                                                    .accumulate_bias = d_bias.accumulate});
}

/// pre = x · weightᵀ + bias, plus `addend` if there is one.
void product(Tape& tape, const Variable& x, const LinearParameters& parameters, const Tensor& pre,
             const Tensor& addend = {}) {
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
                                .bias = bias,
                                .addend = addend.data()});
}

/// activation(pre) with pre = x · weightᵀ + bias, in place if backward does not need `pre`. Without a
/// gradient.
Variable activated(Tape& tape, const Variable& x, const LinearParameters& parameters, Activation activation,
                   const Tensor& pre) {
  const bool in_place = !tape.recording() || kernels::derives_from_output(activation);
  const Tensor out = in_place ? pre : Tensor::empty(tape.context(), pre.dtype(), pre.shape());
  const auto apply = [&tape, pre, activation](const Tensor& to) {
    kernels::bias_activation(tape.launch(), {.type = pre.dtype(),
                                             .rows = pre.shape()[0],
                                             .columns = pre.shape()[1],
                                             .activation = activation,
                                             .pre = pre.data(),
                                             .out = to.data()});
    return to;
  };
  if (tape.batch_invariant()) {
    product(tape, x, parameters, pre);
    apply(out);
  } else {
    const Tensor weight = wide_weight(tape, parameters, pre.dtype());
    kernels::linear_activation(tape.launch(), {.type = pre.dtype(),
                                               .rows = pre.shape()[0],
                                               .columns = pre.shape()[1],
                                               .depth = x.shape()[1],
                                               .x = x.value.data(),
                                               .weight = weight.data(),
                                               .bias = parameters.bias.value.data(),
                                               .activation = activation,
                                               .pre = pre.data(),
                                               .out = out.data()});
  }
  if (in_place) return {out, nullptr};
  const auto again = [&tape, pre, apply] {
    return apply(Tensor::empty(tape.context(), pre.dtype(), pre.shape()));
  };
  return {out, nullptr, std::make_shared<Recomputation>(Recomputation{again})};
}

/// The rotation of `out`, without the product.
kernels::LinearRotary rotation_of(const LinearRotation& rotation, const Tensor& out) {
  kernels::LinearRotary k{};
  k.type = out.dtype();
  k.rows = out.shape()[0];
  k.columns = out.shape()[1];
  k.out = out.data();
  k.parts = rotation.parts;
  k.part_columns = rotation.part_columns;
  k.heads = rotation.table.heads;
  k.head_dim = rotation.head_dim;
  k.bands = rotation.table.bands;
  k.positions = rotation.positions.as<int32_t>();
  k.cosine = rotation.table.cosine.data();
  k.sine = rotation.table.sine.data();
  return k;
}

/// In place; `direction` is -1 for the inverse.
void rotate(Tape& tape, const LinearRotation& rotation, const Tensor& x, int direction) {
  kernels::rotate_parts(rotation_of(rotation, x), [&tape, direction](kernels::Rotary part) {
    part.direction = direction;
    kernels::rotary(tape.launch(), part);
  });
}

/// out = x · weightᵀ + bias, rotated.
void rotated_product(Tape& tape, const Variable& x, const LinearParameters& parameters,
                     const LinearRotation& rotation, const Tensor& out) {
  if (tape.batch_invariant()) {
    product(tape, x, parameters, out);
    return rotate(tape, rotation, out, 1);
  }
  const Tensor weight = wide_weight(tape, parameters, out.dtype());
  kernels::LinearRotary k = rotation_of(rotation, out);
  k.depth = x.shape()[1];
  k.x = x.value.data();
  k.weight = weight.data();
  k.bias = parameters.bias.value.data();
  kernels::linear_rotary(tape.launch(), k);
}

/// Backward of the product itself, and of what was added to it.
void record_linear(Tape& tape, const Variable& x, const LinearParameters& parameters, const Variable& y,
                   const Variable& residual = {}) {
  tape.record("linear", y,
              [&tape, x = x.kept(), parameters, residual = residual.gradient_only(), d_y = y.gradient] {
                const Tensor d_out = d_y->tensor;
                tape.give(residual, d_out);
                bias_gradient(tape, parameters, *d_y);
                weight_gradient(tape, x, parameters, d_out);
                input_gradient(tape, x, parameters, d_out);
              });
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

Variable linear(Tape& tape, const Variable& x, const LinearParameters& parameters, Activation activation,
                const Variable& residual) {
  const Tensor& weight = parameters.weight.value;
  check_linear(tape, x.value, parameters);
  if (residual.value && activation != Activation::identity)
    throw_user("linear: a residual and an activation exclude each other");
  if (residual.value && tape.batch_invariant())
    return residual_add(tape, residual, linear(tape, x, parameters), {});
  if (activation == Activation::identity && multiplies_in_fp8(tape, x, parameters))
    return fp8_linear(tape, x, parameters, residual);
  PERCEIVER_ASSERT(!x.codes);
  Variable pre = tape.result(x.value.dtype(), {x.shape()[0], weight.shape()[0]});
  if (activation == Activation::identity) {
    pre.wants_column_sums = wants_column_sums(parameters);
    if (residual.value) check_same(tape, "linear", "residual", residual.value, pre.value);
    product(tape, x, parameters, pre.value, residual.value);
    record_linear(tape, x, parameters, pre, residual);
    return pre;
  }
  Variable y = activated(tape, x, parameters, activation, pre.value);
  y.gradient = pre.gradient;
  tape.record("linear", y, [&tape, x = x.kept(), parameters, activation, kept = pre.value, d_y = y.gradient] {
    const Tensor d_out = d_y->tensor;
    // In place unless another gradient shares the storage, which `d_y` and `d_out` hold.
    const Tensor d_pre =
        d_out.shared_by(2) ? d_out : Tensor::empty(tape.context(), d_out.dtype(), d_out.shape());
    const GradientTarget d_bias = tape.target(parameters.bias);
    kernels::bias_activation_backward(tape.launch(), {.type = d_out.dtype(),
                                                      .rows = d_out.shape()[0],
                                                      .columns = d_out.shape()[1],
                                                      .activation = activation,
                                                      .kept = kept.data(),
                                                      .d_out = d_out.data(),
                                                      .d_pre = d_pre.data(),
                                                      .d_bias = d_bias.tensor.data(),
                                                      .accumulate_bias = d_bias.accumulate});
    weight_gradient(tape, x, parameters, d_pre);
    input_gradient(tape, x, parameters, d_pre);
  });
  return y;
}

Variable linear_rotary(Tape& tape, const Variable& x, const LinearParameters& parameters,
                       const LinearRotation& rotation) {
  const RotaryTable& table = rotation.table;
  if (table.bands == 0 || table.heads == 0) return linear(tape, x, parameters);
  const auto check = [&](const Tensor& y) {
    for (int64_t part = 0; part < rotation.parts; ++part)
      check_rotary(tape, y, part * rotation.part_columns, rotation.head_dim, table, rotation.positions);
  };
  check_linear(tape, x.value, parameters);
  Variable y = tape.result(x.value.dtype(), {x.shape()[0], parameters.weight.shape()[0]});
  check(y.value);
  if (multiplies_in_fp8(tape, x, parameters)) {
    if (rotation.reader_rotates_back) {
      y.wants_column_sums = wants_column_sums(parameters);
      y.wants_codes = parameters.fp8;
    }
    fp8_linear_rotary(tape, x, parameters, y, rotation_of(rotation, y.value));
  } else {
    PERCEIVER_ASSERT(!x.codes);
    rotated_product(tape, x, parameters, rotation, y.value);
    record_linear(tape, x, parameters, y);
  }
  if (!rotation.reader_rotates_back)
    tape.record("rotary", y,
                [&tape, gradient = y.gradient, rotation] { rotate(tape, rotation, gradient->tensor, -1); });
  return y;
}

Variable feed_forward(Tape& tape, const Variable& x, const LinearParameters& first, Activation activation,
                      const LinearParameters& second, const Variable& residual) {
  if (activation == Activation::identity || tape.batch_invariant()) {
    const Variable y = linear(tape, linear(tape, x, first, activation), second);
    return residual.value ? residual_add(tape, residual, y, {}) : y;
  }
  const DType type = x.value.dtype();
  const int64_t rows = x.shape()[0], hidden_columns = first.weight.shape()[0];
  check_linear(tape, x.value, first);
  check_columns(tape, "linear", "weight", second.weight.value, type, hidden_columns);
  if (multiplies_in_fp8(tape, x, first) && second.fp8 && second.fp8->weight_rows)
    return fp8_feed_forward(tape, x, first, activation, second, residual);
  PERCEIVER_ASSERT(!x.codes);
  const Tensor pre = Tensor::empty(tape.context(), type, {rows, hidden_columns});
  const Variable hidden = activated(tape, x, first, activation, pre);
  check_linear(tape, hidden.value, second);
  Variable y = tape.result(type, {rows, second.weight.shape()[0]});
  y.wants_column_sums = wants_column_sums(second);
  if (residual.value) check_same(tape, "feed_forward", "residual", residual.value, y.value);
  product(tape, hidden, second, y.value, residual.value);
  tape.record("feed_forward", y,
              [&tape, x = x.kept(), first, activation, kept = pre, hidden = hidden.kept(), second,
               residual = residual.gradient_only(), d_y = y.gradient] {
                const Tensor d_out = d_y->tensor;
                tape.give(residual, d_out);
                bias_gradient(tape, second, *d_y);
                weight_gradient(tape, hidden, second, d_out);
                const Tensor d_pre = Tensor::empty(tape.context(), kept.dtype(), kept.shape());
                const GradientTarget d_bias = tape.target(first.bias);
                kernels::linear_activation_backward(tape.launch(), {.type = kept.dtype(),
                                                                    .rows = kept.shape()[0],
                                                                    .columns = kept.shape()[1],
                                                                    .depth = d_out.shape()[1],
                                                                    .d_out = d_out.data(),
                                                                    .weight = second.weight.value.data(),
                                                                    .activation = activation,
                                                                    .kept = kept.data(),
                                                                    .d_pre = d_pre.data(),
                                                                    .d_bias = d_bias.tensor.data(),
                                                                    .accumulate_bias = d_bias.accumulate});
                weight_gradient(tape, x, first, d_pre);
                input_gradient(tape, x, first, d_pre);
              });
  return y;
}

}  // namespace perceiver::ops
