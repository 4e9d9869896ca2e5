// The autograd tape: coarse operations record their backward as they run; `backward` calls them in reverse.
//
// An operation of one's own makes its output with `result`, computes it, and passes `record` a function that
// reads the output's gradient and writes those of the inputs, where `target` says:
//
//     Variable doubled(Tape& tape, const Variable& x) {
//       const Variable y = tape.result(x.value.dtype(), x.shape());
//       …                                                          // y.value = 2 x.value
//       tape.record("doubled", y, [&tape, x = x.gradient_only(), d_y = y.gradient] {
//         if (const GradientTarget d_x = tape.target(x)) …         // d_x.tensor (+)= 2 d_y->tensor
//       });
//       return y;
//     }
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/experimental/device_context.h"
#include "perceiver/experimental/launch.h"
#include "perceiver/experimental/variable.h"
#include "perceiver/export.h"

namespace perceiver {

/// Keys of the random numbers of one forward pass. Masks depend on these and on an element's index in the
/// whole batch, not on micro-batches, devices or recomputation.
struct RandomKey {
  uint64_t seed = 0;
  uint64_t step = 0;
  int64_t first_example = 0;              ///< index in the whole batch of the pass's first example
  uint32_t op = 0;                        ///< number of the next operation that draws
  const uint64_t* device_step = nullptr;  ///< `step` in device memory; required for dropout
};

/// Where an operation writes a gradient.
struct GradientTarget {
  Tensor tensor;
  bool accumulate = false;
  explicit operator bool() const { return static_cast<bool>(tensor); }
};

/// One pass: forward, and if it records, backward. For one thread; lives until its backward is done, and
/// `context` longer.
class PERCEIVER_API Tape {
 public:
  /// `recording` keeps what backward needs; `training` turns dropout on.
  Tape(DeviceContext& context, bool recording, bool training = false, RandomKey random = {})
      : context_(context), recording_(recording), training_(training), random_(random) {}

  DeviceContext& context() const { return context_; }
  const Launch& launch() const { return context_.launch(); }
  bool recording() const { return recording_; }
  bool training() const { return training_; }
  RandomKey& random() { return random_; }

  /// A new result of an operation, with a gradient if the tape records. Throws `user` for a floating-point
  /// type that the device does not compute in.
  Variable result(DType dtype, Shape shape) const;
  /// An external value, without a gradient.
  static Variable constant(Tensor value) { return {std::move(value), nullptr}; }
  /// An external value whose gradient is wanted, though it is no parameter: after backward it is in
  /// gradient->tensor, if gradient->written.
  static Variable leaf(Tensor value);

  /// Records `backward` of operation `name` with result `output`; it is skipped if nothing wrote the output's
  /// gradient. `output` without a gradient (a loss, from which backward starts): it always runs. `name` must
  /// live as long as the tape: a literal.
  void record(std::string_view name, const Variable& output, std::function<void()> backward);

  /// Where to write the gradient of `variable`; empty for constants. Each call must be followed by the write.
  GradientTarget target(const Variable& variable);
  /// Passes a finished tensor on as (part of) the gradient of `variable`, without a copy if it is the first
  /// part. For a root: its gradient, before `backward`. `column_sums` and `codes`: of the tensor, if they are
  /// known. Throws `user` if shape or type are not the gradient's.
  void give(const Variable& variable, const Tensor& gradient, const Tensor& column_sums = {},
            const std::shared_ptr<const Fp8Codes>& codes = {});
  /// target (+)= tensor, of the same shape and type.
  void write(const GradientTarget& target, const Tensor& tensor) const;
  /// During backward: the finished gradient of an operation's output.
  const Tensor& gradient_of(const Variable& variable) const { return variable.gradient->tensor; }

  /// During backward, `watch` is called with elements of the flat gradient buffer (ParameterStore),
  /// descending: the gradients from there on are final. Set it before forward.
  void watch_gradients(std::function<void(int64_t)> watch) { watch_ = std::move(watch); }
  /// During forward, `watch` is called with elements of the flat parameter buffers, ascending: what was
  /// enqueued so far does not use the parameters from there on. Set it before forward.
  void watch_parameters(std::function<void(int64_t)> watch) { parameter_watch_ = std::move(watch); }
  /// Parameters from element `first` on are used by operations recorded after this call only.
  void begin_parameters(int64_t first);

  /// Runs the backward of all recorded operations in reverse order and forgets them. The caller has written
  /// the gradients of the roots, except of those that start it themselves (ops::output_loss). Throws `user`
  /// if the tape does not record, if it already ran and nothing was recorded since, or if no root has a
  /// gradient.
  void backward();

  /// From now on the result of a row of a linear layer is bit for bit independent of the number of rows: for
  /// generation, where rows are sequences. For few rows; not while recording.
  void set_batch_invariant() { batch_invariant_ = true; }
  bool batch_invariant() const { return batch_invariant_; }

  /// From now on every result and gradient is checked; the first with a NaN or infinity is described in
  /// `*first_offender`.
  void check_finite(std::optional<std::string>* first_offender) { offender_ = first_offender; }
  std::optional<std::string>* finite_check() const { return offender_; }

  /// Names the part of the model that the following operations belong to.
  void enter(std::string scope) { scope_ = std::move(scope); }
  const std::string& scope() const { return scope_; }

 private:
  struct Operation {
    std::string_view name;
    std::string scope;
    std::shared_ptr<Gradient> output;  ///< null: `backward` always runs
    std::function<void()> backward;
  };
  /// A copy in stream order; by a kernel, so that a recorded step remains a chain of kernels.
  void copy(const Tensor& from, const Tensor& to) const;
  Tensor copy_of(const Tensor& tensor) const;
  void check(const Tensor& tensor, std::string_view direction, std::string_view name,
             const std::string& scope);

  DeviceContext& context_;
  bool recording_;
  bool training_;
  bool batch_invariant_ = false;
  bool ran_backward_ = false;
  RandomKey random_;
  std::vector<Operation> operations_;
  std::vector<Tensor> written_;
  std::optional<std::string>* offender_ = nullptr;
  std::string scope_;
  std::function<void(int64_t)> watch_, parameter_watch_;
};

/// Activation checkpointing: runs `block` on `input` without keeping what its backward needs, and runs it
/// again during backward. Results and gradients are bitwise those of block(tape, input).
PERCEIVER_API Variable recomputed(Tape& tape, const Variable& input,
                                  std::function<Variable(Tape&, const Variable&)> block);

}  // namespace perceiver
