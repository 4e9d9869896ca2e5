#include "autograd/tape.h"

#include "base/check.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"

namespace perceiver {

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
  if (gradient.written && !gradient.tensor.unique()) {
    // Another operation's gradient shares the storage (see `give`); it must not see the sum. Parameters share
    // theirs with the flat buffer alone and are meant to be written there.
    if (!gradient.preallocated) {
      Tensor own = Tensor::empty(context_, gradient.dtype, gradient.shape);
      kernels::dropout(launch(),
                       {gradient.dtype, own.elements(), gradient.tensor.data(), {}, own.data(), false});
      gradient.tensor = own;
    }
  }
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
    kernels::add(launch(), {tensor.dtype(), tensor.elements(), tensor.data(), sum.tensor.data()});
    return;
  }
  gradient.tensor = tensor;
  gradient.written = true;
}

void Tape::backward() {
  while (!operations_.empty()) {
    Operation operation = std::move(operations_.back());
    operations_.pop_back();
    if (!operation.output->written) continue;
    operation.backward();
    for (const Tensor& tensor : written_) check(tensor, "backward", operation.name, operation.scope);
    written_.clear();
  }
}

void Tape::check(const Tensor& tensor, std::string_view direction, std::string_view name,
                 const std::string& scope) {
  if (offender_ == nullptr || offender_->has_value()) return;
  // As many bytes as an int64; only a step that went wrong is checked, so that the allocation does not
  // matter.
  const Tensor counter = Tensor::empty(context_, DType::f64, {1});
  kernels::count_non_finite(
      launch(), {tensor.dtype(), tensor.elements(), tensor.data(), static_cast<int64_t*>(counter.data())});
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
                Tape again(tape.context(), true, tape.training(), start);
                again.check_finite(tape.finite_check());
                again.enter(scope);
                Variable copy{input.read(), std::make_shared<Gradient>()};
                copy.gradient->shape = copy.shape();
                copy.gradient->dtype = copy.value.dtype();
                const Variable output_again = block(again, copy);
                again.give(output_again, gradient->tensor);
                again.backward();
                if (copy.gradient->written) tape.give(input, copy.gradient->tensor);
              });
  return output;
}

}  // namespace perceiver
