// The numbers that change from step to step (kernels::StepScalars), in device memory, so that the host never
// waits for them inside a step.
#pragma once

#include <cstdint>

#include "kernels/optimizer.h"
#include "perceiver/experimental/tensor.h"

namespace perceiver {

class StepState {
 public:
  explicit StepState(DeviceContext& context);

  /// Writes what the host decides, in stream order: the step's number, the learning rate, and d objective / d
  /// (sum of losses).
  void start(uint64_t step, double learning_rate, double loss_scale);
  /// Sets the number of updates made so far, on which bias corrections depend.
  void set_updates(int64_t updates);
  /// In device memory.
  kernels::StepScalars* scalars() const { return static_cast<kernels::StepScalars*>(tensor_.data()); }
  /// All of them as they are now; waits for the device.
  kernels::StepScalars read() const;

 private:
  Tensor tensor_;  ///< u8 [sizeof(kernels::StepScalars)]
};

}  // namespace perceiver
