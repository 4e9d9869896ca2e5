// One training step: micro-batches, clipping, the optimizer's update, the weights' moving average.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batch.h"
#include "model/perceiver_ar.h"
#include "perceiver/config.h"
#include "train/optimizer.h"

namespace perceiver {

/// Sums over the targets of one step or of several; nats.
struct LossSums {
  double loss = 0;     ///< what is minimised: with label smoothing and z-loss
  double nll = 0;      ///< negative log-likelihood
  double z_loss = 0;   ///< the z-loss term
  double correct = 0;  ///< targets that were the most likely token
  int64_t targets = 0;

  void add(const LossSums& other);
  /// Per target; NaN without any.
  double mean(double sum) const;
};

struct StepReport {
  LossSums sums;
  int64_t inputs = 0;        ///< tokens read
  double gradient_norm = 0;  ///< global, before clipping
  double learning_rate = 0;
  bool finite = true;    ///< otherwise nothing was updated
  std::string offender;  ///< where not finite: the first operation whose result was not, in words
};

/// Everything that a step changes besides the weights: optimizer state and moving average. A step is a
/// function of these, the configuration, its number and its batch; random numbers depend on (train.seed,
/// step, example) alone, so micro-batches see the masks of the large batch.
class Learner {
 public:
  /// The moving average starts at the model's present weights. `model` must outlive this.
  Learner(const Config& config, PerceiverAR& model);
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  /// Trains on `batch` as step `step`, counted from 0. Where the loss or the gradient is not finite, nothing
  /// is changed and the step is computed again to find the operation at fault.
  StepReport step(int64_t step, const Batch& batch);

  /// Updates made so far; bias corrections depend on it.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }
  /// The optimizer's state; see Optimizer::state.
  std::vector<NamedTensor> optimizer_state() const { return optimizer_->state(); }
  /// The weights' moving average as a flat buffer (ParameterStore); none where train.ema_decay is 0. The
  /// decay of update t is min(ema_decay, (1 + t) / (10 + t)), so that the initial weights are soon forgotten.
  const Tensor& average() const { return average_; }
  /// Exchanges weights and moving average, where there is one.
  void exchange_average();

 private:
  /// Losses and gradients of a batch.
  StepReport pass(int64_t step, const Batch& batch, std::optional<std::string>* offender);
  /// One micro-batch; its losses' sums stay on the device.
  void micro_step(const Batch& part, const PassOptions& options, double gradient_scale,
                  std::optional<std::string>* offender);
  void update(double learning_rate);
  kernels::Launch launch() const;

  Config config_;
  PerceiverAR& model_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t updates_ = 0;
  Batch part_;                  ///< the present micro-batch
  std::vector<Tensor> totals_;  ///< of each micro-batch, f64 [5]
  Tensor squared_norm_;         ///< f64 [1]
  Tensor scalars_;              ///< kernels::StepScalars
  Tensor average_;
};

/// The model's weights are their moving average as long as this lives, where there is one.
class AveragedWeights {
 public:
  explicit AveragedWeights(Learner& learner) : learner_(learner) { learner_.exchange_average(); }
  ~AveragedWeights() { learner_.exchange_average(); }
  AveragedWeights(const AveragedWeights&) = delete;
  AveragedWeights& operator=(const AveragedWeights&) = delete;

 private:
  Learner& learner_;
};

}  // namespace perceiver
