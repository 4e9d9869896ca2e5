// One training step: micro-batches, clipping, the optimizer's update, the weights' moving average.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/optimizer.h"
#include "model/batch.h"
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

/// Everything that a step changes besides the weights: optimizer state and moving average. All of it happens
/// on the device, decided there too; the host only enqueues and, later, reads the report. A step is a
/// function of these, the configuration, its number and its batch; random numbers depend on (train.seed,
/// step, example) alone, so micro-batches see the masks of the large batch.
class Learner {
 public:
  /// The moving average starts at the model's present weights. `model` must outlive this.
  Learner(const Config& config, PerceiverAR& model);
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  /// Trains on `batch` as step `step`, counted from 0, and waits for the result. Where the loss or the
  /// gradient is not finite, nothing is changed and the step is computed again to find the operation at
  /// fault.
  StepReport step(int64_t step, const Batch& batch);
  /// The same in two halves: `start` enqueues a step, `finish` waits for the oldest one. Up to `capacity`
  /// steps may be in flight, so that a GPU never waits for the host.
  void start(int64_t step, const Batch& batch);
  StepReport finish();
  int64_t in_flight() const { return in_flight_; }
  int64_t capacity() const { return static_cast<int64_t>(slots_.size()); }

  /// Updates made by the finished steps; bias corrections depend on it.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates);
  /// The optimizer's state; see Optimizer::state.
  std::vector<NamedTensor> optimizer_state() const { return optimizer_->state(); }
  /// The weights' moving average as a flat buffer (ParameterStore); none where train.ema_decay is 0. The
  /// decay of update t is min(ema_decay, (1 + t) / (10 + t)), so that the initial weights are soon forgotten.
  const Tensor& average() const { return average_; }
  /// Exchanges weights and moving average, where there is one.
  void swap_average();

 private:
  /// A step that was started.
  struct Slot {
    int64_t step = 0;
    Batch batch;  ///< to find the operation at fault, if need be
    double learning_rate = 0;
    std::unique_ptr<Mailbox> mailbox;  ///< loss totals, then kernels::StepScalars
  };
  /// A micro-batch's launches. They are run once to fill the arena's cache, then recorded.
  struct Recording {
    bool warm = false;
    std::unique_ptr<RecordedWork> work;
  };

  void write_scalars(int64_t step, const Batch& batch, double learning_rate);
  /// Enqueues the micro-batches of a step, the last with the update, by recorded work where possible.
  void enqueue(int64_t step, const Batch& batch);
  PassOptions pass_options(int64_t step, const Batch& batch, int64_t part) const;
  const Batch& part_of(const Batch& batch, int64_t part);
  void run_part(int64_t part, const PassOptions& options);
  /// Losses and gradients of the present inputs.
  void compute_part(int64_t part, const PassOptions& options, std::optional<std::string>* offender);
  void update();
  std::string find_offender(const Slot& slot);
  kernels::StepScalars* scalars() const { return static_cast<kernels::StepScalars*>(scalars_.data()); }

  Config config_;
  PerceiverAR& model_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t updates_ = 0;
  Batch part_;                           ///< the present micro-batch
  ModelInputs inputs_;                   ///< of the present micro-batch, always at the same place
  std::shared_ptr<DeviceMemory> arena_;  ///< of recorded work
  std::vector<Recording> recordings_;    ///< one for each micro-batch
  std::vector<Slot> slots_;              ///< a ring
  int64_t next_ = 0, in_flight_ = 0;
  Tensor totals_;        ///< f64 [5]: sums of the step's losses
  Tensor squared_norm_;  ///< f64 [1]
  Tensor scalars_;       ///< kernels::StepScalars
  Tensor average_;
};

/// The model's weights are their moving average as long as this lives, where there is one.
class AveragedWeights {
 public:
  explicit AveragedWeights(Learner& learner) : learner_(learner) { learner_.swap_average(); }
  ~AveragedWeights() { learner_.swap_average(); }
  AveragedWeights(const AveragedWeights&) = delete;
  AveragedWeights& operator=(const AveragedWeights&) = delete;

 private:
  Learner& learner_;
};

}  // namespace perceiver
