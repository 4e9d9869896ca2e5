#include "perceiver/experimental/tape.h"

#include "base/check.h"
#include "kernels/elementwise.h"

namespace perceiver {
Variable Tape::leaf(Tensor value) {
  Variable variable{std::move(value), std::make_shared<Gradient>()};
  variable.gradient->shape = variable.shape();
  variable.gradient->dtype = variable.value.dtype();
  return variable;
}

Variable Tape::result(DType dtype, Shape shape) const {
  if (!context_.computes_in(dtype))
    throw_user("{} does not compute in {}; use {}", context_.name(), name_of(dtype),
               context_.is_cuda() ? "f32 or bf16" : "f32 or f64");
  Variable variable{Tensor::empty(context_, dtype, shape), nullptr};
  if (recording_) {
    variable.gradient = std::make_shared<Gradient>();
    variable.gradient->shape = shape;
    variable.gradient->dtype = dtype;
  }
  return variable;
}

void Tape::record(std::string_view name, const Variable& output, std::function<void()> backward) {
  if (offender_ != nullptr) check(output.value, "forward", name, scope_);
  if (recording_) operations_.push_back({name, scope_, output.gradient, std::move(backward)});
}

GradientTarget Tape::target(const Variable& variable) {
  if (!variable.gradient) return {};
  Gradient& gradient = *variable.gradient;
  if (!gradient.tensor) gradient.tensor = Tensor::empty(context_, gradient.dtype, gradient.shape);
  // A gradient that shares its storage with another (see `give`) is copied before anything is added to it.
  // Parameters share theirs with the flat buffer only, and are meant to be written there.
  if (gradient.written && !gradient.preallocated && !gradient.tensor.unique())
    gradient.tensor = copy_of(gradient.tensor);
  const bool accumulate = gradient.written;
  gradient.written = true;
  gradient.column_sums = {};
  gradient.codes = {};
  if (offender_ != nullptr) written_.push_back(gradient.tensor);
  return {gradient.tensor, accumulate};
}

void Tape::give(const Variable& variable, const Tensor& tensor, const Tensor& column_sums,
                const std::shared_ptr<const Fp8Codes>& codes) {
  if (!variable.gradient) return;
  Gradient& gradient = *variable.gradient;
  if (tensor.shape() != gradient.shape || tensor.dtype() != gradient.dtype)
    throw_user("gradient: {} {} given for one of {} {}", name_of(tensor.dtype()), tensor.shape().text(),
               name_of(gradient.dtype), gradient.shape.text());
  if (gradient.written || gradient.preallocated) return write(target(variable), tensor);
  gradient.tensor = tensor;
  gradient.column_sums = column_sums;
  gradient.codes = codes;
  gradient.written = true;
}

void Tape::copy(const Tensor& from, const Tensor& to) const {
  kernels::cast(launch(), {.from = from.dtype(),
                           .to = to.dtype(),
                           .elements = from.elements(),
                           .x = from.data(),
                           .y = to.data()});
}

Tensor Tape::copy_of(const Tensor& tensor) const {
  const Tensor result = Tensor::empty(context_, tensor.dtype(), tensor.shape());
  copy(tensor, result);
  return result;
}

void Tape::write(const GradientTarget& target, const Tensor& tensor) const {
  if (!target.accumulate) return copy(tensor, target.tensor);
  kernels::add(launch(), {.type = tensor.dtype(),
                          .elements = tensor.elements(),
                          .source = tensor.data(),
                          .target = target.tensor.data()});
}

void Tape::begin_parameters(int64_t first) {
  if (parameter_watch_) parameter_watch_(first);
  if (recording_ && watch_) operations_.push_back({"", "", nullptr, [this, first] { watch_(first); }});
}

void Tape::backward() {
  if (!recording_) throw_user("backward: the tape was made without recording");
  if (operations_.empty() && ran_backward_)
    throw_user("backward: it already ran, and nothing was recorded since; make a new tape for each pass");
  const bool empty = operations_.empty();
  bool ran = false;
  ran_backward_ = true;
  while (!operations_.empty()) {
    Operation operation = std::move(operations_.back());
    operations_.pop_back();
    if (operation.output && !operation.output->written) continue;
    ran = true;
    operation.backward();
    for (const Tensor& tensor : written_) check(tensor, "backward", operation.name, operation.scope);
    written_.clear();
  }
  if (!ran && !empty)
    throw_user("backward: nothing to start from; record a loss, or give the last result its gradient first");
}

void Tape::check(const Tensor& tensor, std::string_view direction, std::string_view name,
                 const std::string& scope) {
  if (offender_ == nullptr || offender_->has_value()) return;
  // f64 is as large as an int64. Only a failed step is checked, so the allocation does not matter.
  const Tensor counter = Tensor::empty(context_, DType::f64, {1});
  kernels::count_non_finite(launch(), {.type = tensor.dtype(),
                                       .elements = tensor.elements(),
                                       .x = tensor.data(),
                                       .count = static_cast<int64_t*>(counter.data())});
  int64_t count = 0;
  counter.copy_to_host(std::as_writable_bytes(std::span(&count, 1)));
  if (count == 0) return;
  *offender_ = fmt::format("{} of {} in {}: {} of {} values are not finite", direction, name,
                           scope.empty() ? "the model" : scope, count, tensor.elements());
}

Variable recomputed(Tape& tape, const Variable& input,
                    std::function<Variable(Tape&, const Variable&)> block) {
  if (!tape.recording()) return block(tape, input);
  PERCEIVER_ASSERT(!input.codes);
  const RandomKey start = tape.random();
  Tape silent(tape.context(), false, tape.training(), start);
  silent.check_finite(tape.finite_check());
  silent.enter(tape.scope());
  const Variable result = block(silent, Tape::constant(input.value));
  tape.random() = silent.random();

  Variable output = Tape::leaf(result.value);
  output.wants_column_sums = result.wants_column_sums;
  output.wants_codes = result.wants_codes;
  tape.record("recomputed block", output,
              [&tape, input = input.kept(), start, block = std::move(block), scope = tape.scope(),
               gradient = output.gradient] {
                Tape inner(tape.context(), true, tape.training(), start);
                inner.check_finite(tape.finite_check());
                inner.enter(scope);
                Variable inner_input = Tape::leaf(input.read());
                inner_input.wants_column_sums = input.wants_column_sums;
                inner_input.wants_codes = input.wants_codes;
                const Variable inner_output = block(inner, inner_input);
                inner.give(inner_output, gradient->tensor, gradient->column_sums, gradient->codes);
                inner.backward();
                const Gradient& d_input = *inner_input.gradient;
                if (d_input.written) tape.give(input, d_input.tensor, d_input.column_sums, d_input.codes);
              });
  return output;
}

}  // namespace perceiver
