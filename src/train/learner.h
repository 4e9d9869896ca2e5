// One training step: micro-batches, clipping, optimizer update, moving average of the weights.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batches/example_share.h"
#include "distributed/world.h"
#include "kernels/optimizer.h"
#include "model/batch.h"
#include "model/perceiver_ar.h"
#include "model/segment_memory.h"
#include "perceiver/config.h"
#include "train/fp8_state.h"
#include "train/gradient_exchange.h"
#include "train/optimizer.h"
#include "train/step_state.h"

namespace perceiver {

/// Sums over the targets of one or more steps; nats.
struct LossSums {
  double loss = 0;     ///< what is minimised: with label smoothing and z-loss
  double nll = 0;      ///< negative log-likelihood
  double z_loss = 0;   ///< the z-loss term
  double correct = 0;  ///< targets that were the most likely token
  int64_t targets = 0;

  void add(const LossSums& other);
  /// Per target; NaN if there are none.
  double mean(double sum) const;
};

/// What ranks tell each other with a step; a step's report says the sum over the ranks.
struct StepSignals {
  double stop = 0;  ///< asks the run to end
  double time = 0;  ///< its time is up
  double save = 0;  ///< asks for a checkpoint
  double used = 0;  ///< of the time of schedule.until, the share that is over; rank 0 alone says it
};

/// The ranks of a run, as a learner needs them.
struct LearnerRanks {
  World* world = nullptr;  ///< told while a rank waits for others; may be null
  std::shared_ptr<Communicator> all = {};
  /// The ranks that compute the same examples, each with a part of the context; null: train.context_shards
  /// is 1.
  std::shared_ptr<Communicator> context_group = {};
  ExampleShare share = {};
  int64_t bucket_elements = 0;  ///< 0: GradientExchange::bucket_elements
  size_t steps_in_flight = 0;   ///< at most; 0: as many as keep the device busy
};

struct StepReport {
  LossSums sums;
  StepSignals signals;
  int64_t inputs = 0;        ///< tokens read
  double gradient_norm = 0;  ///< global, before clipping
  double learning_rate = 0;
  bool finite = true;    ///< false: nothing was updated
  std::string offender;  ///< if not finite: the first operation with a non-finite result, in words
};

/// Everything a step changes besides the weights: optimizer state and moving average. All of it, decisions
/// included, happens on the device; the host only enqueues and later reads the report. A step is a function
/// of this state, the configuration, its number and its batch; random numbers depend only on (train.seed,
/// step, example), so micro-batches and ranks see the same masks as the large batch.
///
/// With several ranks, each passes its share of a batch (ExampleShare); every rank has the same reports, and
/// makes the same calls.
class Learner {
 public:
  /// StepReport::offender where no operation is at fault.
  static constexpr const char* kNoOffender = "every value is finite, but the gradient norm overflows";

  /// The moving average starts at the model's current weights, the same on all ranks. `model` must outlive
  /// this.
  Learner(const Config& config, PerceiverAR& model, const LearnerRanks& ranks = {});
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  /// Trains on `batch` as step `step`, counted from 0, and waits for the result. If the loss or the gradient
  /// is not finite, nothing is updated and the step is recomputed to find the operation at fault.
  StepReport step(int64_t step, const Batch& batch);
  /// The same in two halves: `start` enqueues a step, `finish` waits for the oldest one. Up to `capacity`
  /// steps may be in flight to keep a GPU from waiting for the host.
  /// `used`: of learning_rate(), the same on every rank.
  void start(int64_t step, const Batch& batch, const StepSignals& signals = {}, double used = 0);
  StepReport finish();
  int64_t in_flight() const { return in_flight_; }
  int64_t capacity() const { return static_cast<int64_t>(slots_.size()); }

  /// Updates made by the finished steps; bias corrections depend on this.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates);
  /// The master weights in the layout of the flat buffers (ParameterStore), and the optimizer's state
  /// (Optimizer::state), for a checkpoint. Collective; on rank 0's host, with nothing elsewhere.
  Tensor collect_values() const;
  std::vector<NamedTensor> collect_optimizer_state() const;
  /// Likewise the moving average of the weights; nothing if train.ema_decay is 0. The decay of update t is
  /// min(ema_decay, (1 + t) / (10 + t)), which soon forgets the initial weights.
  Tensor collect_average() const;
  bool averages() const { return static_cast<bool>(average_); }
  /// Reads the state from a checkpoint: `read` fills a tensor with what has a name there.
  using ReadTensor = std::function<void(const std::string& name, const Shape& shape, const Tensor& target)>;
  void load_optimizer_state(const ReadTensor& read);
  void load_average(const ReadTensor& read);
  /// What a model that remembers earlier segments does of the streams at their present place: "layer.L"
  /// [train.batch, memory_length, Z] each, in the order of the examples, in the accumulation type; empty for
  /// other models.
  std::vector<NamedTensor> collect_memory() const;
  void load_memory(const ReadTensor& read);
  bool remembers() const { return memory_.length > 0; }
  /// Scales of 8-bit operands, which collect_optimizer_state has too; without them the next step finds its
  /// own.
  bool multiplies_in_fp8() const { return fp8_ != nullptr; }
  void load_fp8_scales(const ReadTensor& read);
  /// Whether every weight that this rank keeps is finite. Not for use in a step: it waits for the device.
  bool weights_are_finite() const;
  /// What this rank holds on its device.
  struct Bytes {
    int64_t weights = 0, gradients = 0, optimizer = 0, average = 0, memory = 0;
  };
  Bytes bytes() const;
  const ExampleShare& share() const { return ranks_.share; }
  /// Swaps weights and moving average, if there is one.
  void swap_average();

 private:
  /// A step in flight.
  struct Slot {
    int64_t step = 0;
    Batch batch;  ///< to find the operation at fault, if needed
    double learning_rate = 0;
    std::unique_ptr<Mailbox> mailbox;  ///< loss totals, then kernels::StepScalars
  };
  /// A micro-batch's launches: run once to fill the arena's cache, then recorded.
  struct Recording {
    bool warm = false;
    std::unique_ptr<RecordedWork> work;
  };

  /// Targets and inputs of this rank's batch, and signals, summed over the ranks before a step begins.
  static constexpr int64_t kShared = 6;
  /// Sums over the ranks at a step's end: those of the losses, and the squared norm of the gradient.
  static constexpr int64_t kTotals = 6;

  void write_scalars(int64_t step, const Batch& batch, double learning_rate, const StepSignals& signals);
  /// Enqueues the micro-batches of a step, the last one with the update, from recordings where possible.
  void enqueue(int64_t step, const Batch& batch);
  PassOptions pass_options(int64_t step, int64_t part) const;
  const Batch& part_of(const Batch& batch, int64_t part);
  void run_part(int64_t part, const PassOptions& options);
  /// Losses and gradients of the current inputs.
  void compute_part(int64_t part, const PassOptions& options, std::optional<std::string>* offender);
  void share_targets();
  void update();
  void update_slice(size_t slice);
  void publish(size_t slice, bool rounded);
  void load_buffer(const Tensor& state, const std::string& prefix, const ReadTensor& read);
  Tensor collect(const Tensor& state) const;
  Tensor memory_of_all_ranks(const Tensor& own) const;
  Tensor average_of(size_t slice) const;
  /// Not if something at the start of a pass needs all weights, or waits for what the ranks gather; nor if no
  /// step starts before the last one is finished.
  bool gathers_late() const {
    return config_.train.precision != Precision::fp8 && !ranks_.context_group && capacity() > 1;
  }
  double sharing() const { return ranks_.context_group ? ranks_.context_group->size() : 1; }
  std::string find_offender(const Slot& slot);
  kernels::StepScalars* scalars() const { return state_.scalars(); }

  Config config_;
  PerceiverAR& model_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t updates_ = 0;
  LearnerRanks ranks_;
  std::unique_ptr<GradientExchange> exchange_;  ///< null: one rank
  std::unique_ptr<Fp8State> fp8_;               ///< null: train.precision is not fp8
  std::vector<UpdatedSlice> slices_;            ///< what this rank updates
  Batch part_;                                  ///< the current micro-batch
  ModelInputs inputs_;                          ///< of the current micro-batch, always at the same address
  std::shared_ptr<DeviceMemory> arena_;         ///< of recorded work
  std::vector<Recording> recordings_;           ///< one per micro-batch
  std::vector<Slot> slots_;                     ///< ring buffer
  int64_t next_ = 0, in_flight_ = 0;
  Tensor totals_;         ///< f64 [5]: sums of the step's losses
  Tensor squared_norms_;  ///< f64 [slices]
  Tensor shared_;         ///< f64 [kShared], with several ranks
  Tensor all_totals_;     ///< f64 [kTotals], likewise
  StepState state_;
  SegmentMemory memory_;  ///< of this rank's examples, in their order
  Tensor average_;        ///< in the layout of the optimizer's buffers
};

/// While this lives, the model's weights are their moving average, if there is one.
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
