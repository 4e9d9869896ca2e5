// The scales of a model's 8-bit operands (kernels/fp8.h): three sites for each linear layer of its blocks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "kernels/optimizer.h"
#include "model/perceiver_ar.h"
#include "ops/fp8.h"

namespace perceiver {

/// A tensor of every checkpoint with scales.
inline constexpr const char* fp8_peaks_name = "fp8.peaks";

/// From construction to destruction, passes of `model` that train multiply in 8 bits. The first such pass
/// finds the scales as it goes: each operand is measured before it is quantised. From then on a scale follows
/// the magnitudes of the steps before, those of all ranks.
class Fp8State {
 public:
  /// `ranks` is null for one rank. `model` must outlive this.
  Fp8State(PerceiverAR& model, std::shared_ptr<Communicator> ranks);
  ~Fp8State();
  Fp8State(const Fp8State&) = delete;
  Fp8State& operator=(const Fp8State&) = delete;

  /// Around the first micro-batch of a step: the weights are quantised for all of them, and a first pass sets
  /// scales. Such a pass is not to be recorded.
  void start_pass();
  void end_pass();
  /// The end of a step, in stream order; collective.
  void rescale(const kernels::StepScalars* scalars);

  /// Drops the magnitudes of a pass that belongs to no step.
  void forget_pass();

  /// What a checkpoint keeps, by name; the same on every rank.
  std::vector<NamedTensor> tensors() const;
  /// What it holds in device memory.
  int64_t bytes() const { return weights_->bytes(); }
  /// Scales are there, restored into `tensors`.
  void set_calibrated() { calibrated_ = true; }
  bool calibrated() const { return calibrated_; }

 private:
  PerceiverAR& model_;
  std::shared_ptr<Communicator> ranks_;
  std::shared_ptr<Fp8Recipe> recipe_;
  std::unique_ptr<ops::Fp8Weights> weights_;
  bool calibrated_ = false;
};

}  // namespace perceiver
