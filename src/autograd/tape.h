// The tape: coarse operations record their backward as they run; `backward` calls them in reverse.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/variable.h"
#include "core/device_context.h"
#include "kernels/backend.h"

namespace perceiver {

/// Keys of the random numbers of one forward pass. Masks depend on these and on an element's place in the
/// whole batch, not on micro-batches, devices or recomputation.
struct RandomKey {
  uint64_t seed = 0;
  uint64_t step = 0;
  int64_t first_example = 0;              ///< place of the pass' first example in the whole batch
  uint32_t op = 0;                        ///< number of the next operation that draws
  const uint64_t* device_step = nullptr;  ///< `step` in the device's memory; where elements are dropped
};

/// Where an operation writes a gradient.
struct GradientTarget {
  Tensor tensor;
  bool accumulate = false;
  explicit operator bool() const { return static_cast<bool>(tensor); }
};

class Tape {
 public:
  /// `recording`: keep what backward needs. `training`: dropout is on.
  Tape(DeviceContext& context, bool recording, bool training = false, RandomKey random = {})
      : context_(context), recording_(recording), training_(training), random_(random) {}

  DeviceContext& context() const { return context_; }
  const Launch& launch() const { return context_.launch(); }
  bool recording() const { return recording_; }
  bool training() const { return training_; }
  RandomKey& random() { return random_; }

  /// A fresh result of an operation; it has a gradient when the tape records.
  Variable result(DType dtype, Shape shape) const;
  /// A value that comes from outside and takes no gradient.
  static Variable constant(Tensor value) { return {std::move(value), nullptr}; }

  /// Records `backward` of operation `name` with result `output`; it is skipped when nothing wrote the
  /// output's gradient.
  void record(std::string_view name, const Variable& output, std::function<void()> backward);

  /// Where to write the gradient of `variable`; empty for constants. Each call must be followed by the write.
  GradientTarget target(const Variable& variable);
  /// Hands over a finished tensor as (part of) the gradient of `variable`, without a copy where it is the
  /// first part.
  void give(const Variable& variable, const Tensor& gradient);
  /// The finished gradient of an operation's output, during backward.
  const Tensor& gradient_of(const Variable& variable) const { return variable.gradient->tensor; }

  /// Runs all recorded operations in reverse and forgets them. The caller has written the roots' gradients.
  void backward();

  /// From now on what a row of a linear layer becomes does not depend on how many rows there are, to the bit:
  /// for generation, where rows are sequences. For few rows; not while recording.
  void set_independent_rows() { independent_rows_ = true; }
  bool independent_rows() const { return independent_rows_; }

  /// From now on every result and gradient is checked, and the first with a NaN or infinity remembered.
  void check_finite(std::optional<std::string>* first_offender) { offender_ = first_offender; }
  std::optional<std::string>* finite_check() const { return offender_; }

  /// Name of the part of the model that the operations from now on belong to.
  void enter(std::string scope) { scope_ = std::move(scope); }
  const std::string& scope() const { return scope_; }

 private:
  struct Operation {
    std::string_view name;
    std::string scope;
    std::shared_ptr<Gradient> output;
    std::function<void()> backward;
  };
  void check(const Tensor& tensor, std::string_view direction, std::string_view name,
             const std::string& scope);

  DeviceContext& context_;
  bool recording_;
  bool training_;
  bool independent_rows_ = false;
  RandomKey random_;
  std::vector<Operation> operations_;
  std::vector<Tensor> written_;
  std::optional<std::string>* offender_ = nullptr;
  std::string scope_;
};

/// Runs `block` on `input` without keeping what its backward needs, and runs it again for that during
/// backward. Results and gradients are bitwise those of block(tape, input).
Variable recomputed(Tape& tape, const Variable& input, std::function<Variable(Tape&, const Variable&)> block);

}  // namespace perceiver
