#include "train/learner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "data/rows.h"
#include "train/schedule.h"

namespace perceiver {
namespace {

constexpr double kAverageWarmup = 10;

Tensor copy_of(DeviceContext& context, const Tensor& source) {
  Tensor copy = Tensor::empty(context, source.dtype(), source.shape());
  std::vector<std::byte> host(source.bytes());
  source.copy_to_host(host);
  copy.copy_from_host(host);
  return copy;
}

LossSums sums_of(const Tensor& totals) {
  double host[5];
  totals.copy_to_host(std::as_writable_bytes(std::span<double>(host)));
  return {host[0], host[1], host[2], host[3], static_cast<int64_t>(host[4])};
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
      squared_norm_(Tensor::zeros(model.context(), DType::f64, {1})),
      scalars_(Tensor::zeros(model.context(), DType::u8, {sizeof(kernels::StepScalars)})) {
  totals_.reserve(static_cast<size_t>(config.train.micro_batches));
  if (config.train.ema_decay > 0) average_ = copy_of(model.context(), model.parameters().values());
}

kernels::Launch Learner::launch() const {
  return {model_.context().device(), model_.context().stream()};
}

StepReport Learner::step(int64_t step, const Batch& batch) {
  StepReport report = pass(step, batch, nullptr);
  report.learning_rate = learning_rate(config_, step);
  report.finite = std::isfinite(report.sums.loss) && std::isfinite(report.gradient_norm);
  if (report.finite) {
    update(report.learning_rate);
    return report;
  }
  std::optional<std::string> offender;
  pass(step, batch, &offender);
  report.offender = offender.value_or("every value is finite, but the gradient's norm is too large for one");
  return report;
}

StepReport Learner::pass(int64_t step, const Batch& batch, std::optional<std::string>* offender) {
  const int64_t parts = config_.train.micro_batches;
  PassOptions options;
  options.training = true;
  options.random.seed = config_.train.seed;
  options.random.step = static_cast<uint64_t>(step);
  const int64_t targets = count_targets(config_.model, batch, 0);
  const bool mean = config_.loss.reduction == Reduction::mean;
  const double gradient_scale = mean ? 1 / static_cast<double>(std::max<int64_t>(1, targets)) : 1;

  totals_.clear();
  model_.parameters().start_gradients();
  for (int64_t part = 0; part < parts; ++part) {
    options.random.first_example = batch.size / parts * part;
    if (parts > 1) micro_batch(batch, part, parts, part_);
    micro_step(parts > 1 ? part_ : batch, options, gradient_scale, offender);
  }
  model_.parameters().finish_gradients();

  const Tensor& gradients = model_.parameters().gradients();
  kernels::sum_of_squares(
      launch(), {gradients.dtype(), gradients.elements(), gradients.data(), squared_norm_.as<double>()});
  StepReport report;
  for (const Tensor& totals : totals_) report.sums.add(sums_of(totals));
  report.inputs = std::accumulate(batch.lengths.begin(), batch.lengths.end(), int64_t{0});
  report.gradient_norm = std::sqrt(squared_norm_.to_host<double>()[0]);
  return report;
}

void Learner::micro_step(const Batch& part, const PassOptions& options, double gradient_scale,
                         std::optional<std::string>* offender) {
  const ModelInputs inputs = model_.prepare(part, options);
  Tape tape(model_.context(), true, true, options.random);
  tape.check_finite(offender);
  const ops::LossOptions loss{config_.loss.label_smoothing, config_.loss.z_loss, gradient_scale};
  totals_.push_back(model_.loss(tape, inputs, loss, config_.train.recompute).totals);
  tape.backward();
}

void Learner::update(double learning_rate) {
  ++updates_;
  const auto t = static_cast<double>(updates_);
  const kernels::StepScalars host{learning_rate, 1, t,
                                  std::min(config_.train.ema_decay, (1 + t) / (kAverageWarmup + t))};
  scalars_.copy_from_host(std::as_bytes(std::span(&host, 1)));
  auto* scalars = static_cast<kernels::StepScalars*>(scalars_.data());
  kernels::clip_scale(launch(), {squared_norm_.as<double>(), config_.optimizer.clip_norm, scalars});
  optimizer_->update(scalars);
  if (!average_) return;
  const Tensor& values = model_.parameters().values();
  kernels::moving_average(launch(),
                          {values.dtype(), values.elements(), values.data(), average_.data(), scalars});
}

void Learner::exchange_average() {
  if (!average_) return;
  const Tensor& values = model_.parameters().values();
  kernels::exchange(launch(), {values.dtype(), values.elements(), values.data(), average_.data()});
}

}  // namespace perceiver
