#include "perceiver/experimental/tape.h"

#include "base/check.h"
#include "kernels/elementwise.h"

namespace perceiver {
namespace {

/// A copy in stream order; by a kernel, so that a recorded step remains a chain of kernels.
Tensor copy_of(const Tape& tape, const Tensor& tensor) {
  const Tensor copy = Tensor::empty(tape.context(), tensor.dtype(), tensor.shape());
  kernels::cast(tape.launch(), {.from = tensor.dtype(),
                                .to = tensor.dtype(),
                                .elements = tensor.elements(),
                                .x = tensor.data(),
                                .y = copy.data()});
  return copy;
}

}  // namespace

Variable Tape::result(DType dtype, Shape shape) const {
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
    gradient.tensor = copy_of(*this, gradient.tensor);
  const bool accumulate = gradient.written;
  gradient.written = true;
  if (offender_ != nullptr) written_.push_back(gradient.tensor);
  return {gradient.tensor, accumulate};
}

void Tape::give(const Variable& variable, const Tensor& tensor) {
  if (!variable.gradient) return;
  Gradient& gradient = *variable.gradient;
  PERCEIVER_ASSERT(!gradient.preallocated && tensor.shape() == gradient.shape &&
                   tensor.dtype() == gradient.dtype);
  if (gradient.written) {
    const GradientTarget sum = target(variable);
    kernels::add(launch(), {.type = tensor.dtype(),
                            .elements = tensor.elements(),
                            .source = tensor.data(),
                            .target = sum.tensor.data()});
    return;
  }
  gradient.tensor = tensor;
  gradient.written = true;
}

void Tape::begin_parameters(int64_t first) {
  if (recording_ && watch_) operations_.push_back({"", "", nullptr, [this, first] { watch_(first); }});
}

void Tape::backward() {
  while (!operations_.empty()) {
    Operation operation = std::move(operations_.back());
    operations_.pop_back();
    if (operation.output && !operation.output->written) continue;
    operation.backward();
    for (const Tensor& tensor : written_) check(tensor, "backward", operation.name, operation.scope);
    written_.clear();
  }
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
  const RandomKey start = tape.random();
  Tape silent(tape.context(), false, tape.training(), start);
  silent.check_finite(tape.finite_check());
  silent.enter(tape.scope());
  const Tensor value = block(silent, Tape::constant(input.value)).value;
  tape.random() = silent.random();

  Variable output{value, std::make_shared<Gradient>()};
  output.gradient->shape = value.shape();
  output.gradient->dtype = value.dtype();
  tape.record("recomputed block", output,
              [&tape, input = input.kept(), start, block = std::move(block), scope = tape.scope(),
               gradient = output.gradient] {
                Tape inner(tape.context(), true, tape.training(), start);
                inner.check_finite(tape.finite_check());
                inner.enter(scope);
                Variable inner_input{input.read(), std::make_shared<Gradient>()};
                inner_input.gradient->shape = inner_input.shape();
                inner_input.gradient->dtype = inner_input.value.dtype();
                const Variable inner_output = block(inner, inner_input);
                inner.give(inner_output, gradient->tensor);
                inner.backward();
                if (inner_input.gradient->written) tape.give(input, inner_input.gradient->tensor);
              });
  return output;
}

}  // namespace perceiver
