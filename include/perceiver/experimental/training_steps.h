// Training a model of one's own: what happens around forward and backward in each step. Unstable: may change
// with any version (docs/experimental.md).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "perceiver/config.h"
#include "perceiver/experimental/parameters.h"
#include "perceiver/experimental/tape.h"
#include "perceiver/export.h"

namespace perceiver {

/// What became of an update.
struct UpdateReport {
  int64_t updates = 0;       ///< made so far, skipped ones not counted
  double gradient_norm = 0;  ///< of all parameters together, before clipping
  bool finite = true;        ///< false: loss or gradient was not, and nothing was changed
};

/// An optimizer over all parameters of a store, with the numbers of the current step in device memory, so
/// that the host never waits inside a step:
///
///     steps.start(step, learning_rate(config, step), 1.0 / tokens);
///     Tape tape(context, true, true, steps.random(seed));
///     const ops::LossResult loss = model.loss(tape, …, {.gradient_scale = steps.loss_scale()});
///     tape.backward();
///     steps.update(loss.totals);
///
/// A large batch may be computed in parts: several passes, each with a tape of its own, between `start` and
/// `update` add up their gradients. For one thread at a time; all but `report` only enqueue on a GPU.
class PERCEIVER_API TrainingSteps {
 public:
  /// The optimizer's state starts at zero. `context` and `parameters`, already allocated there, must outlive
  /// this. Of the configuration, `learning_rate` is not read: each step has its own. Throws `user` for
  /// parameters that are not allocated.
  TrainingSteps(const OptimizerConfig& config, DeviceContext& context, ParameterStore& parameters);
  ~TrainingSteps();
  TrainingSteps(const TrainingSteps&) = delete;
  TrainingSteps& operator=(const TrainingSteps&) = delete;

  /// Begins step `step`, counted from 0: the next backward overwrites all gradients. `loss_scale` is the
  /// derivative of the objective with respect to the sum of losses: 1 / targets for their mean. Throws `user`
  /// if a step has begun and was not updated.
  void start(int64_t step, double learning_rate, double loss_scale = 1);
  /// Keys of this step's random numbers, for a tape with dropout. `first_example`: the number, in the step's
  /// batch, of the pass's first example.
  RandomKey random(uint64_t seed, int64_t first_example = 0) const;
  /// In device memory: for ops::LossOptions::gradient_scale.
  const double* loss_scale() const;
  /// Ends the step: gradients that no operation wrote are zero; clips to `clip_norm`, updates all parameters
  /// and publishes them. Nothing changes if a gradient, or the first element of `loss` (f64 on the device;
  /// none: not looked at), is not finite. Throws `user` if no step has begun.
  void update(const Tensor& loss = {});
  /// Of the last update; waits for the device.
  UpdateReport report() const;

  /// What the next update depends on besides parameters and gradients, in the optimizer's own memory: tensors
  /// named "<optimizer>.<moment>/<parameter>", with the parameter's shape (adafactor: of its rows and
  /// columns), in the parameters' master type. To continue later, save them with the number of updates, read
  /// them into the same tensors (tensor_file.h), and set the number.
  std::vector<NamedTensor> state() const;
  /// Sets UpdateReport::updates, on which Adam's bias correction depends.
  void set_updates(int64_t updates);

 private:
  struct Content;
  std::unique_ptr<Content> content_;
};

}  // namespace perceiver
