#include "base/check.h"
#include "kernels/norm.h"
#include "ops/checks.h"
#include "ops/dropout.h"
#include "ops/fp8.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {
namespace {

struct Statistics {
  Tensor mean, rstd;  // [rows]
};

Statistics statistics_of(Tape& tape, DType type, int64_t rows) {
  const DType wide = accumulation_type(type);
  return {Tensor::empty(tape.context(), wide, {rows}), Tensor::empty(tape.context(), wide, {rows})};
}

kernels::ResidualLayerNorm forward_arguments(const Tensor& x, const NormParameters& norm,
                                             const Statistics& statistics, const Tensor& y) {
  kernels::ResidualLayerNorm arguments{};
  arguments.type = x.dtype();
  arguments.rows = x.shape()[0];
  arguments.columns = x.shape()[1];
  arguments.residual = x.data();
  arguments.scale = norm.scale.value.data();
  arguments.offset = norm.offset.value.data();
  arguments.y = y.data();
  arguments.mean = statistics.mean.data();
  arguments.rstd = statistics.rstd.data();
  return arguments;
}

kernels::ResidualLayerNormBackward backward_arguments(Tape& tape, const Tensor& x, const NormParameters& norm,
                                                      const Statistics& statistics, const Tensor& d_y) {
  kernels::ResidualLayerNormBackward arguments{};
  arguments.type = x.dtype();
  arguments.rows = x.shape()[0];
  arguments.columns = x.shape()[1];
  arguments.x = x.data();
  arguments.scale = norm.scale.value.data();
  arguments.mean = statistics.mean.data();
  arguments.rstd = statistics.rstd.data();
  arguments.d_y = d_y.data();
  const GradientTarget d_scale = tape.target(norm.scale), d_offset = tape.target(norm.offset);
  arguments.d_scale = d_scale.tensor.data();
  arguments.d_offset = d_offset.tensor.data();
  arguments.accumulate_scale = d_scale.accumulate;
  arguments.accumulate_offset = d_offset.accumulate;
  return arguments;
}

void check_norm(const Tape& tape, const Tensor& x, const NormParameters& norm) {
  check_activation(tape, "layer_norm", "x", x);
  check_vector(tape, "layer_norm", "scale", norm.scale.value, x.dtype(), x.shape()[1]);
  check_vector(tape, "layer_norm", "offset", norm.offset.value, x.dtype(), x.shape()[1]);
}

/// Writes y.value, or y.codes instead if `reader` takes these.
void normalise_for(Tape& tape, const LinearParameters* reader, const kernels::ResidualLayerNorm& arguments,
                   Variable& y) {
  std::optional<Fp8Matrix> input;
  if (kernels::fp8_layer_norm_possible(tape.launch(), arguments.columns))
    input = input_in_fp8(tape, reader, arguments.type, arguments.rows, arguments.columns);
  if (!input) return kernels::residual_layer_norm(tape.launch(), arguments);
  kernels::Fp8LayerNorm quantised{arguments, input->quantize};
  quantised.norm.y = nullptr;
  kernels::fp8_layer_norm(tape.launch(), quantised);
  y.codes = input->codes;
  y.value = Tensor::without_contents(tape.context(), y.value.dtype(), y.value.shape());
}

/// y = LayerNorm(x); also writes the statistics.
void normalise(Tape& tape, const Tensor& x, const NormParameters& norm, const Statistics& statistics,
               const Tensor& y) {
  kernels::residual_layer_norm(tape.launch(), forward_arguments(x, norm, statistics, y));
}

/// Lets `y` = LayerNorm(x) be made again: one pass over memory instead of keeping it until backward.
void make_recomputable(Tape& tape, Variable& y, const Tensor& x, const NormParameters& norm,
                       const Statistics& statistics) {
  if (!tape.recording()) return;
  y.restore = std::make_shared<Recomputation>();
  y.restore->in_backward_of = y.gradient.get();
  y.restore->value = [&tape, x, norm, statistics] {
    const Tensor again = Tensor::empty(tape.context(), x.dtype(), x.shape());
    normalise(tape, x, norm, statistics, again);
    return again;
  };
}

/// The launch of a backward, which also makes LayerNorm(x) for those that wait for it and, if wanted, the
/// column sums of the branch's gradient and its codes.
struct Backward {
  std::shared_ptr<Recomputation> normal;
  kernels::ResidualLayerNormBackward arguments;
  Tensor y = {}, branch_sums = {};
  std::optional<Fp8Matrix> quantised = {};

  Backward(Tape& tape, const Tensor& x, const NormParameters& norm, const Statistics& statistics,
           const Gradient& d_y, std::shared_ptr<Recomputation> recomputation)
      : normal(std::move(recomputation)),
        arguments(backward_arguments(tape, x, norm, statistics, d_y.tensor)) {
    if (normal->waiting.empty()) return;
    y = Tensor::empty(tape.context(), x.dtype(), x.shape());
    arguments.offset = norm.offset.value.data();
    arguments.y = y.data();
  }

  /// What else the maker of `branch` wants of its gradient, the arguments' d_branch or d_x.
  void add_wishes(Tape& tape, const Variable& branch) {
    if (!branch.gradient) return;
    if (branch.wants_column_sums) {
      branch_sums = Tensor::empty(tape.context(), accumulation_type(arguments.type), {arguments.columns});
      arguments.branch_sums = branch_sums.data();
    }
    if (arguments.d_branch == nullptr && kernels::fp8_layer_norm_possible(tape.launch(), arguments.columns))
      quantised = gradient_in_fp8(tape, branch);
  }
  std::shared_ptr<const Fp8Codes> codes() const { return quantised ? quantised->codes : nullptr; }

  void run(Tape& tape) {
    if (quantised) {
      kernels::fp8_layer_norm_backward(tape.launch(), {arguments, quantised->quantize});
    } else {
      kernels::residual_layer_norm_backward(tape.launch(), arguments);
    }
    for (const auto& use : normal->waiting) use(y);
    normal->waiting.clear();
  }
};

}  // namespace

Variable layer_norm(Tape& tape, const Variable& x, const NormParameters& norm,
                    const LinearParameters* reader) {
  const Tensor& in = x.value;
  check_norm(tape, in, norm);
  Variable y = tape.result(in.dtype(), in.shape());
  const Statistics statistics = statistics_of(tape, in.dtype(), in.shape()[0]);
  normalise_for(tape, reader, forward_arguments(in, norm, statistics, y.value), y);
  make_recomputable(tape, y, in, norm, statistics);
  tape.record("layer_norm", y, [&tape, x, norm, statistics, d_y = y.gradient, normal = y.restore] {
    Backward backward(tape, x.value, norm, statistics, *d_y, normal);
    GradientTarget d_x = tape.target(x);
    if (!d_x) d_x.tensor = Tensor::empty(tape.context(), x.value.dtype(), x.shape());  // of a constant
    backward.arguments.d_x = d_x.tensor.data();
    backward.arguments.accumulate_x = d_x.accumulate;
    backward.add_wishes(tape, x);
    backward.run(tape);
    if (!x.gradient) return;
    x.gradient->column_sums = backward.branch_sums;
    x.gradient->codes = backward.codes();
  });
  return y;
}

ResidualNorm residual_layer_norm(Tape& tape, const Variable& residual, const Variable& branch,
                                 const NormParameters& norm, DropoutSite site,
                                 const LinearParameters* reader) {
  const Tensor& in = branch.value;
  const bool has_residual = static_cast<bool>(residual.value);
  check_norm(tape, in, norm);
  if (has_residual) check_same(tape, "residual_layer_norm", "residual", residual.value, in);
  const kernels::DropoutMask mask = next_mask(tape, site);
  ResidualNorm out{tape.result(in.dtype(), in.shape()), tape.result(in.dtype(), in.shape())};
  const Statistics statistics = statistics_of(tape, in.dtype(), in.shape()[0]);
  kernels::ResidualLayerNorm forward = forward_arguments(in, norm, statistics, out.normal.value);
  forward.residual = has_residual ? residual.value.data() : nullptr;
  forward.branch = in.data();
  forward.mask = mask;
  forward.sum = out.sum.value.data();
  normalise_for(tape, reader, forward, out.normal);
  make_recomputable(tape, out.normal, out.sum.value, norm, statistics);
  tape.record("residual_layer_norm", out.normal,
              [&tape, residual = residual.gradient_only(), branch = branch.gradient_only(), norm, mask,
               statistics, sum = out.sum, d_y = out.normal.gradient, normal = out.normal.restore] {
                Backward backward(tape, sum.value, norm, statistics, *d_y, normal);
                kernels::ResidualLayerNormBackward& arguments = backward.arguments;
                const Tensor d_sum = sum.gradient->written ? sum.gradient->tensor : Tensor();
                const Tensor d_x = Tensor::empty(tape.context(), sum.value.dtype(), sum.shape());
                const Tensor d_branch =
                    mask.threshold > 0 ? Tensor::empty(tape.context(), d_x.dtype(), d_x.shape()) : d_x;
                arguments.d_sum = d_sum.data();
                arguments.d_x = d_x.data();
                arguments.mask = mask;
                arguments.d_branch = mask.threshold > 0 ? d_branch.data() : nullptr;
                backward.add_wishes(tape, branch);
                backward.run(tape);
                tape.give(branch, d_branch, backward.branch_sums, backward.codes());
                tape.give(residual, d_x);
              });
  return out;
}

}  // namespace perceiver::ops
