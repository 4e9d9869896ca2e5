#include <algorithm>
#include <array>

#include "base/check.h"
#include "kernels/gemm.h"
#include "kernels/loss.h"
#include "ops/checks.h"
#include "ops/wide_weight.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {
namespace {

/// Memory for the logits of some rows. On a GPU rows start at multiples of 16 bytes, which the fast paths of
/// matrix products need, and chunks are larger, to fill the device; on the CPU a chunk should stay in the
/// cache.
struct Chunk {
  int64_t rows, stride;
  Tensor logits;  // [rows, stride]
};

Chunk make_chunk(const Tape& tape, DType type, int64_t rows, int64_t vocabulary) {
  const bool gpu = tape.context().is_cuda();
  const int64_t logits = int64_t{1} << (gpu ? 24 : 20);
  const int64_t stride = gpu ? (vocabulary + 7) / 8 * 8 : vocabulary;
  const int64_t count = std::min(rows, std::max<int64_t>(64, logits / vocabulary));
  return {count, stride, Tensor::empty(tape.context(), type, {count, stride})};
}

/// Logits of rows [begin, begin + count), with bias.
void chunk_logits(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t begin,
                  int64_t count, const Chunk& chunk) {
  const int64_t in = x.shape()[1], vocabulary = weight.shape()[0];
  kernels::gemm(tape.launch(), {.type = x.dtype(),
                                .out_type = x.dtype(),
                                .transpose_b = true,
                                .m = count,
                                .n = vocabulary,
                                .k = in,
                                .a = x.view(begin * in, {count, in}).data(),
                                .lda = in,
                                .b = weight.data(),
                                .ldb = in,
                                .c = chunk.logits.data(),
                                .ldc = chunk.stride,
                                .bias = bias.data()});
}

/// d_bias (+)= column sums of `count` rows of a chunk.
void bias_gradient(Tape& tape, const Chunk& d_logits, int64_t count, const GradientTarget& d_bias) {
  kernels::bias_activation_backward(tape.launch(), {.type = d_logits.logits.dtype(),
                                                    .rows = count,
                                                    .columns = d_bias.tensor.elements(),
                                                    .activation = Activation::identity,
                                                    .d_out = d_logits.logits.data(),
                                                    .d_bias = d_bias.tensor.data(),
                                                    .accumulate_bias = d_bias.accumulate,
                                                    .stride = d_logits.stride});
}

/// d_weight (+)= d_logitsᵀ · x over `count` rows of a chunk.
void weight_gradient(Tape& tape, const Chunk& d_logits, int64_t count, const Tensor& x,
                     const GradientTarget& d_weight) {
  const int64_t in = x.shape()[1], vocabulary = d_weight.tensor.shape()[0];
  kernels::gemm(tape.launch(), {.type = x.dtype(),
                                .out_type = d_weight.tensor.dtype(),
                                .transpose_a = true,
                                .m = vocabulary,
                                .n = in,
                                .k = count,
                                .a = d_logits.logits.data(),
                                .lda = d_logits.stride,
                                .b = x.data(),
                                .ldb = in,
                                .c = d_weight.tensor.data(),
                                .ldc = in,
                                .accumulate = d_weight.accumulate});
}

/// d_x (+)= d_logits · weight for `count` rows of a chunk.
void input_gradient(Tape& tape, const Chunk& d_logits, int64_t count, const Tensor& weight,
                    const GradientTarget& d_x) {
  const int64_t vocabulary = weight.shape()[0], in = weight.shape()[1];
  kernels::gemm(tape.launch(), {.type = weight.dtype(),
                                .out_type = weight.dtype(),
                                .m = count,
                                .n = in,
                                .k = vocabulary,
                                .a = d_logits.logits.data(),
                                .lda = d_logits.stride,
                                .b = weight.data(),
                                .ldb = in,
                                .c = d_x.tensor.data(),
                                .ldc = in,
                                .accumulate = d_x.accumulate});
}

void backward_of(Tape& tape, const Variable& x, const LinearParameters& parameters, const Tensor& targets,
                 const LossOptions& options) {
  const DType type = x.value.dtype();
  const int64_t rows = x.shape()[0], in = x.shape()[1], vocabulary = parameters.weight.shape()[0];
  const Chunk chunk = make_chunk(tape, type, rows, vocabulary);
  const Tensor& logits = chunk.logits;
  const GradientTarget d_x = tape.target(x), d_weight = tape.target(parameters.weight),
                       d_bias = tape.target(parameters.bias);
  Tensor one;
  const double* gradient_scale = options.gradient_scale;
  if (gradient_scale == nullptr) {
    one = Tensor::from_host<double>(tape.context(), {1}, std::array{1.0});
    gradient_scale = one.as<double>();
  }
  for (int64_t begin = 0; begin < rows; begin += chunk.rows) {
    const int64_t count = std::min(chunk.rows, rows - begin);
    chunk_logits(tape, x.value, parameters.weight.value, parameters.bias.value, begin, count, chunk);
    kernels::cross_entropy(tape.launch(), {.type = type,
                                           .rows = count,
                                           .vocabulary = vocabulary,
                                           .stride = chunk.stride,
                                           .logits = logits.data(),
                                           .targets = targets.as<int32_t>() + begin,
                                           .label_smoothing = options.label_smoothing,
                                           .z_loss = options.z_loss,
                                           .gradient_scale = gradient_scale});
    if (d_bias) bias_gradient(tape, chunk, count, {d_bias.tensor, d_bias.accumulate || begin > 0});
    if (d_weight)
      weight_gradient(tape, chunk, count, x.value.view(begin * in, {count, in}),
                      {d_weight.tensor, d_weight.accumulate || begin > 0});
    if (d_x)
      input_gradient(tape, chunk, count, parameters.weight.value,
                     {d_x.tensor.view(begin * in, {count, in}), d_x.accumulate});
  }
}

void check_loss(const Tape& tape, const Tensor& x, const LinearParameters& parameters, const Tensor& targets,
                const LossOptions& options) {
  check_activation(tape, "output_loss", "x", x);
  check_columns(tape, "output_loss", "weight", parameters.weight.value, x.dtype(), x.shape()[1]);
  const int64_t vocabulary = parameters.weight.shape()[0];
  if (parameters.bias.value)
    check_vector(tape, "output_loss", "bias", parameters.bias.value, x.dtype(), vocabulary);
  check_integers(tape, "output_loss", "targets", targets, x.shape()[0]);
  if (targets.elements() != x.shape()[0])
    throw_user("output_loss: {} targets for {} rows", targets.elements(), x.shape()[0]);
  check_range(tape, "output_loss", "target", targets, x.shape()[0], 0, vocabulary - 1);
  if (options.totals) check_vector(tape, "output_loss", "totals", options.totals, DType::f64, 5);
}

}  // namespace

LossResult output_loss(Tape& tape, const Variable& x, const LinearParameters& parameters,
                       const Tensor& targets, const LossOptions& options) {
  check_loss(tape, x.value, parameters, targets, options);
  const DType type = x.value.dtype(), wide = accumulation_type(type);
  const int64_t rows = x.shape()[0], vocabulary = parameters.weight.shape()[0];
  DeviceContext& context = tape.context();
  LossResult result{Tensor::empty(context, wide, {rows}), Tensor::empty(context, wide, {rows}),
                    Tensor::empty(context, wide, {rows}), Tensor::empty(context, DType::u8, {rows}),
                    options.totals ? options.totals : Tensor::empty(context, DType::f64, {5})};
  {
    const Chunk chunk = make_chunk(tape, type, rows, vocabulary);
    const Tensor weight = wide_weight(tape, parameters, type);
    for (int64_t begin = 0; begin < rows; begin += chunk.rows) {
      const int64_t count = std::min(chunk.rows, rows - begin);
      chunk_logits(tape, x.value, weight, parameters.bias.value, begin, count, chunk);
      kernels::cross_entropy(tape.launch(), {.type = type,
                                             .rows = count,
                                             .vocabulary = vocabulary,
                                             .stride = chunk.stride,
                                             .logits = chunk.logits.data(),
                                             .targets = targets.as<int32_t>() + begin,
                                             .label_smoothing = options.label_smoothing,
                                             .z_loss = options.z_loss,
                                             .nll = result.nll.view(begin, {count}).data(),
                                             .loss = result.loss.view(begin, {count}).data(),
                                             .z = result.z.view(begin, {count}).data(),
                                             .correct = result.correct.as<uint8_t>() + begin});
    }
  }
  kernels::loss_totals(tape.launch(), {.type = wide,
                                       .rows = rows,
                                       .loss = result.loss.data(),
                                       .nll = result.nll.data(),
                                       .z = result.z.data(),
                                       .correct = result.correct.as<uint8_t>(),
                                       .targets = targets.as<int32_t>(),
                                       .totals = result.totals.as<double>(),
                                       .accumulate = options.accumulate_totals});
  // A root: its gradient counts as written.
  Variable root{result.loss, std::make_shared<Gradient>()};
  root.gradient->written = true;
  tape.record("output_loss", root, [&tape, x, parameters, targets, options] {
    backward_of(tape, x, parameters, targets, options);
  });
  return result;
}

}  // namespace perceiver::ops
