#include "train/learner.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "data/batches/rows.h"
#include "kernels/elementwise.h"
#include "kernels/optimizer.h"
#include "model/attention_backend.h"
#include "train/schedule.h"

namespace perceiver {
namespace {

constexpr int64_t kStepsInFlight = 4;  // on a GPU
constexpr size_t kTotalsBytes = 5 * sizeof(double);
// The host writes the scalars before this field, the device the rest.
constexpr size_t kHostScalars = offsetof(kernels::StepScalars, update);

Tensor copy_of(DeviceContext& context, const Tensor& source) {
  Tensor copy = Tensor::empty(context, source.dtype(), source.shape());
  copy.copy_from(source);
  return copy;
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

Learner::Learner(const Config& config, PerceiverAR& model)
    : config_(config),
      model_(model),
      optimizer_(make_optimizer(config.optimizer, model.context(), model.parameters())),
      recordings_(static_cast<size_t>(config.train.micro_batches)),
      slots_(model.context().is_cuda() ? kStepsInFlight : 1),
      totals_(Tensor::zeros(model.context(), DType::f64, {5})),
      squared_norm_(Tensor::zeros(model.context(), DType::f64, {1})),
      scalars_(Tensor::zeros(model.context(), DType::u8, {sizeof(kernels::StepScalars)})) {
  check_attention_backend(model.config(), model.context(), model.type());
  for (Slot& slot : slots_)
    slot.mailbox = model.context().new_mailbox(kTotalsBytes + sizeof(kernels::StepScalars));
  if (model.context().is_cuda() && config.train.cuda_graph) arena_ = model.context().new_arena();
  if (config.train.ema_decay > 0) average_ = copy_of(model.context(), model.parameters().values());
}

void Learner::set_updates(int64_t updates) {
  updates_ = updates;
  const auto number = static_cast<double>(updates);
  scalars_.view(kHostScalars, {sizeof number}).copy_from_host(std::as_bytes(std::span(&number, 1)));
}

StepReport Learner::step(int64_t step, const Batch& batch) {
  PERCEIVER_ASSERT(in_flight_ == 0);
  start(step, batch);
  return finish();
}

void Learner::start(int64_t step, const Batch& batch) {
  PERCEIVER_ASSERT(in_flight_ < capacity());
  Slot& slot = slots_[static_cast<size_t>(next_)];
  slot.step = step;
  slot.batch = batch;
  slot.learning_rate = learning_rate(config_, step);
  write_scalars(step, batch, slot.learning_rate);
  enqueue(step, batch);
  slot.mailbox->post(0, totals_.data(), kTotalsBytes);
  slot.mailbox->post(kTotalsBytes, scalars_.data(), sizeof(kernels::StepScalars));
  slot.mailbox->seal();
  next_ = (next_ + 1) % capacity();
  ++in_flight_;
}

StepReport Learner::finish() {
  PERCEIVER_ASSERT(in_flight_ > 0);
  const Slot& slot = slots_[static_cast<size_t>((next_ + capacity() - in_flight_) % capacity())];
  double totals[5];
  kernels::StepScalars scalars{};
  const std::byte* content = slot.mailbox->wait();
  std::memcpy(totals, content, kTotalsBytes);
  std::memcpy(&scalars, content + kTotalsBytes, sizeof scalars);
  --in_flight_;
  updates_ = static_cast<int64_t>(scalars.update);
  StepReport report;
  report.sums = {totals[0], totals[1], totals[2], totals[3], static_cast<int64_t>(totals[4])};
  report.inputs = std::accumulate(slot.batch.lengths.begin(), slot.batch.lengths.end(), int64_t{0});
  report.gradient_norm = scalars.gradient_norm;
  report.learning_rate = slot.learning_rate;
  report.finite = scalars.finite != 0;
  if (!report.finite) report.offender = find_offender(slot);
  return report;
}

void Learner::write_scalars(int64_t step, const Batch& batch, double learning_rate) {
  kernels::StepScalars host{};
  const int64_t targets = count_targets(config_.model, batch, 0);
  const bool mean = config_.loss.reduction == Reduction::mean;
  host.step = static_cast<uint64_t>(step);
  host.loss_scale = mean ? 1 / static_cast<double>(std::max<int64_t>(1, targets)) : 1;
  host.learning_rate = learning_rate;
  scalars_.view(0, {kHostScalars}).copy_from_host(std::as_bytes(std::span(&host, 1)).first(kHostScalars));
}

PassOptions Learner::pass_options(int64_t step, const Batch& batch, int64_t part) const {
  PassOptions options;
  options.training = true;
  options.random.seed = config_.train.seed;
  options.random.step = static_cast<uint64_t>(step);
  options.random.device_step = &scalars()->step;
  options.random.first_example = batch.size / config_.train.micro_batches * part;
  return options;
}

const Batch& Learner::part_of(const Batch& batch, int64_t part) {
  if (config_.train.micro_batches == 1) return batch;
  micro_batch(batch, part, config_.train.micro_batches, part_);
  return part_;
}

void Learner::enqueue(int64_t step, const Batch& batch) {
  for (int64_t part = 0; part < config_.train.micro_batches; ++part) {
    const PassOptions options = pass_options(step, batch, part);
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
    work();
    recording.warm = true;
    return;
  }
  if (!recording.work) recording.work = model_.context().record(work);
  recording.work->replay();
}

void Learner::compute_part(int64_t part, const PassOptions& options, std::optional<std::string>* offender) {
  if (part == 0) model_.parameters().start_gradients();
  Tape tape(model_.context(), true, true, options.random);
  tape.check_finite(offender);
  const ops::LossOptions loss{config_.loss.label_smoothing, config_.loss.z_loss, &scalars()->loss_scale,
                              totals_, part > 0};
  model_.loss(tape, inputs_, loss, config_.train.recompute);
  tape.backward();
  if (part + 1 == config_.train.micro_batches) model_.parameters().finish_gradients();
}

void Learner::update() {
  const Launch& launch = model_.context().launch();
  const ParameterStore& parameters = model_.parameters();
  const Tensor &gradients = parameters.gradients(), &values = parameters.values();
  kernels::sum_of_squares(launch, {.type = gradients.dtype(),
                                   .elements = gradients.elements(),
                                   .x = gradients.data(),
                                   .sum = squared_norm_.as<double>()});
  kernels::step_control(launch, {.sum_of_squares = squared_norm_.as<double>(),
                                 .loss = totals_.as<double>(),
                                 .clip_norm = config_.optimizer.clip_norm,
                                 .ema_decay = config_.train.ema_decay,
                                 .scalars = scalars()});
  optimizer_->update(scalars());
  parameters.publish();
  if (!average_) return;
  kernels::moving_average(launch, {.type = values.dtype(),
                                   .elements = values.elements(),
                                   .values = values.data(),
                                   .average = average_.data(),
                                   .scalars = scalars()});
}

std::string Learner::find_offender(const Slot& slot) {
  std::optional<std::string> offender;
  write_scalars(slot.step, slot.batch, slot.learning_rate);
  for (int64_t part = 0; part < config_.train.micro_batches; ++part) {
    const PassOptions options = pass_options(slot.step, slot.batch, part);
    ModelInputs inputs = model_.prepare(part_of(slot.batch, part), options);
    std::swap(inputs, inputs_);  // the recorded work's inputs stay where they are
    compute_part(part, options, &offender);
    std::swap(inputs, inputs_);
  }
  return offender.value_or("every value is finite, but the gradient norm overflows");
}

void Learner::swap_average() {
  if (!average_) return;
  const Tensor& values = model_.parameters().values();
  kernels::swap(
      model_.context().launch(),
      {.type = values.dtype(), .elements = values.elements(), .a = values.data(), .b = average_.data()});
  model_.parameters().publish();
}

}  // namespace perceiver
