#include "train/learner.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "data/batches/rows.h"
#include "kernels/optimizer.h"
#include "model/attention_backend.h"
#include "perceiver/experimental/schedule.h"

namespace perceiver {
namespace {

constexpr int64_t kStepsInFlight = 4;  // on a GPU
constexpr size_t kTotalsBytes = 5 * sizeof(double);
constexpr size_t kSharedBytes = 6 * sizeof(double);

int64_t inputs_of(const Batch& batch) {
  return std::accumulate(batch.lengths.begin(), batch.lengths.end(), int64_t{0});
}

}  // namespace

void LossSums::add(const LossSums& other) {
  loss += other.loss;
  nll += other.nll;
  z_loss += other.z_loss;
  correct += other.correct;
  targets += other.targets;
}

double LossSums::mean(double sum) const {
  return targets > 0 ? sum / static_cast<double>(targets) : std::numeric_limits<double>::quiet_NaN();
}

Learner::Learner(const Config& config, PerceiverAR& model, const LearnerRanks& ranks)
    : config_(config),
      model_(model),
      ranks_(ranks),
      recordings_(static_cast<size_t>(config.train.micro_batches)),
      slots_(ranks.steps_in_flight > 0   ? ranks.steps_in_flight
             : model.context().is_cuda() ? kStepsInFlight
                                         : 1),
      totals_(Tensor::zeros(model.context(), DType::f64, {5})),
      state_(model.context()) {
  check_attention_backend(model.config(), model.context(), model.type());
  DeviceContext& context = model.context();
  if (!ranks_.all) ranks_.share = share_of(config.train.batch, config.train.micro_batches);
  if (ranks_.all) {
    const Sharding shard = divides(config.optimizer.type) ? config.train.shard : Sharding::none;
    exchange_ = std::make_unique<GradientExchange>(
        model, ranks_.all, shard,
        ranks_.bucket_elements > 0 ? ranks_.bucket_elements
                                   : GradientExchange::bucket_elements(ranks_.all->size()),
        gathers_late());
    shared_ = Tensor::zeros(context, DType::f64, {kShared});
    all_totals_ = Tensor::zeros(context, DType::f64, {kTotals});
  }
  if (exchange_) {
    slices_ = exchange_->slices();
  } else {
    slices_.push_back(whole_slice(model.parameters()));
  }
  const int64_t elements = exchange_ ? exchange_->partition().state_elements : model.parameters().size();
  if (config.train.precision == Precision::fp8) fp8_ = std::make_unique<Fp8State>(model, ranks_.all);
  optimizer_ = make_optimizer(config.optimizer, context, model.parameters(), slices_, elements,
                              config.train.shard == Sharding::none ? nullptr : ranks_.all);
  squared_norms_ = Tensor::zeros(context, DType::f64, {static_cast<int64_t>(slices_.size())});
  for (Slot& slot : slots_)
    slot.mailbox = context.new_mailbox(kTotalsBytes + sizeof(kernels::StepScalars) + kSharedBytes);
  if (config.model.recurrent())
    memory_ = SegmentMemory::make(context, model.type(), model.config(), ranks_.share.size(),
                                  model.config().memory_length);
  const bool records = !ranks_.all || ranks_.all->recordable();
  if (context.is_cuda() && config.train.cuda_graph && records) arena_ = context.new_arena();
  if (config.train.ema_decay == 0) return;
  average_ = Tensor::zeros(context, slices_[0].values.dtype(), {elements});
  for (size_t i = 0; i < slices_.size(); ++i) average_of(i).copy_from(slices_[i].values);
}

void Learner::set_updates(int64_t updates) {
  updates_ = updates;
  state_.set_updates(updates);
}

StepReport Learner::step(int64_t step, const Batch& batch) {
  PERCEIVER_ASSERT(in_flight_ == 0);
  start(step, batch);
  return finish();
}

void Learner::start(int64_t step, const Batch& batch, const StepSignals& signals, double used) {
  PERCEIVER_ASSERT(in_flight_ < capacity());
  Slot& slot = slots_[static_cast<size_t>(next_)];
  slot.step = step;
  slot.batch = batch;
  slot.learning_rate = learning_rate(config_, step, used);
  write_scalars(step, batch, slot.learning_rate, signals);
  const World::Wait wait(ranks_.world, fmt::format("step {}", step + 1));
  enqueue(step, batch);
  slot.mailbox->post(0, (exchange_ ? all_totals_ : totals_).data(), kTotalsBytes);
  slot.mailbox->post(kTotalsBytes, scalars(), sizeof(kernels::StepScalars));
  if (exchange_)
    slot.mailbox->post(kTotalsBytes + sizeof(kernels::StepScalars), shared_.data(), kSharedBytes);
  slot.mailbox->seal();
  next_ = (next_ + 1) % capacity();
  ++in_flight_;
}

StepReport Learner::finish() {
  PERCEIVER_ASSERT(in_flight_ > 0);
  const Slot& slot = slots_[static_cast<size_t>((next_ + capacity() - in_flight_) % capacity())];
  double totals[5];
  kernels::StepScalars scalars{};
  const World::Wait wait(ranks_.world, fmt::format("step {}", slot.step + 1));
  const std::byte* content = slot.mailbox->wait();
  std::memcpy(totals, content, kTotalsBytes);
  std::memcpy(&scalars, content + kTotalsBytes, sizeof scalars);
  double shared[kShared] = {};
  if (exchange_) std::memcpy(shared, content + kTotalsBytes + sizeof scalars, kSharedBytes);
  --in_flight_;
  if (exchange_ && in_flight_ == 0) exchange_->settle();
  updates_ = static_cast<int64_t>(scalars.update);
  for (double& total : totals) total /= sharing();
  StepReport report;
  report.sums = {totals[0], totals[1], totals[2], totals[3], static_cast<int64_t>(totals[4])};
  report.signals = {shared[2], shared[3], shared[4], shared[5]};
  report.inputs = exchange_ ? static_cast<int64_t>(shared[1] / sharing()) : inputs_of(slot.batch);
  report.gradient_norm = scalars.gradient_norm;
  report.learning_rate = slot.learning_rate;
  report.finite = scalars.finite != 0;
  if (!report.finite) report.offender = find_offender(slot);
  return report;
}

void Learner::write_scalars(int64_t step, const Batch& batch, double learning_rate,
                            const StepSignals& signals) {
  const int64_t targets = count_targets(config_.model, batch, 0);
  const bool mean = config_.loss.reduction == Reduction::mean;
  const double loss_scale = mean ? 1 / static_cast<double>(std::max<int64_t>(1, targets)) : 1;
  state_.start(static_cast<uint64_t>(step), learning_rate, loss_scale);
  if (!exchange_) return;
  const std::array<double, kShared> shared{static_cast<double>(targets),
                                           static_cast<double>(inputs_of(batch)),
                                           signals.stop,
                                           signals.time,
                                           signals.save,
                                           signals.used};
  shared_.copy_from_host(std::as_bytes(std::span(shared)));
}

PassOptions Learner::pass_options(int64_t step, int64_t part) const {
  PassOptions options;
  options.training = true;
  options.random.seed = config_.train.seed;
  options.random.step = static_cast<uint64_t>(step);
  options.random.device_step = &scalars()->step;
  options.context_group = ranks_.context_group.get();
  if (remembers()) options.memory = &memory_;
  options.first_stream = ranks_.share.count * part;
  options.random.first_example = ranks_.share.example(ranks_.share.count * part);
  return options;
}

const Batch& Learner::part_of(const Batch& batch, int64_t part) {
  if (config_.train.micro_batches == 1) return batch;
  micro_batch(batch, part, config_.train.micro_batches, part_);
  return part_;
}

void Learner::enqueue(int64_t step, const Batch& batch) {
  for (int64_t part = 0; part < config_.train.micro_batches; ++part) {
    const PassOptions options = pass_options(step, part);
    if (model_.prepare(part_of(batch, part), options, inputs_))
      for (Recording& recording : recordings_) recording = {};
    run_part(part, options);
  }
}

void Learner::run_part(int64_t part, const PassOptions& options) {
  const auto work = [&] {
    compute_part(part, options, nullptr);
    if (part + 1 == config_.train.micro_batches) update();
  };
  if (!arena_) return work();
  Recording& recording = recordings_[static_cast<size_t>(part)];
  const ArenaScope scope(model_.context(), arena_);
  if (!recording.warm) {
    // A pass that sets scales takes other memory than those that follow.
    const bool as_later = part > 0 || !fp8_ || fp8_->calibrated();
    work();
    recording.warm = as_later;
    return;
  }
  if (!recording.work) recording.work = model_.context().record(work);
  recording.work->replay();
}

void Learner::compute_part(int64_t part, const PassOptions& options, std::optional<std::string>* offender) {
  const bool last = part + 1 == config_.train.micro_batches;
  if (part == 0) share_targets();
  if (part == 0) model_.parameters().start_gradients();
  Tape tape(model_.context(), true, true, options.random);
  tape.check_finite(offender);
  if (exchange_ && part == 0 && offender == nullptr) exchange_->send_late(tape);
  const bool sums = exchange_ && offender == nullptr && (last || exchange_->sums_each_part());
  if (sums) exchange_->watch(tape, part);
  const ops::LossOptions loss{config_.loss.label_smoothing, config_.loss.z_loss, &scalars()->loss_scale,
                              totals_, part > 0};
  const bool sets_scales = fp8_ && part == 0 && offender == nullptr;
  if (sets_scales) fp8_->start_pass();
  model_.loss(tape, inputs_, loss, config_.train.recompute);
  tape.backward();
  if (sets_scales) fp8_->end_pass();
  if (sums) return exchange_->finish();
  if (last) model_.parameters().finish_gradients();
}

std::string Learner::find_offender(const Slot& slot) {
  std::optional<std::string> offender;
  write_scalars(slot.step, slot.batch, slot.learning_rate, {});
  for (int64_t part = 0; part < config_.train.micro_batches; ++part) {
    const PassOptions options = pass_options(slot.step, part);
    ModelInputs inputs = model_.prepare(part_of(slot.batch, part), options);
    std::swap(inputs, inputs_);  // the recorded work's inputs stay where they are
    compute_part(part, options, &offender);
    std::swap(inputs, inputs_);
  }
  if (fp8_) fp8_->forget_pass();
  return offender.value_or(kNoOffender);
}

}  // namespace perceiver
