#include "perceiver/experimental/training_steps.h"

#include "base/check.h"
#include "kernels/elementwise.h"
#include "train/optimizer.h"
#include "train/step_state.h"

namespace perceiver {

struct TrainingSteps::Content {
  OptimizerConfig config;
  DeviceContext& context;
  ParameterStore& parameters;
  StepState state;
  std::unique_ptr<Optimizer> optimizer;
  Tensor squared_norm;  // f64 [1]
  bool started = false;
};

namespace {

ParameterStore& allocated(ParameterStore& parameters) {
  if (!parameters.values() || !parameters.gradients())
    throw_user("training steps: the parameters have no memory yet; call ParameterStore::allocate first");
  return parameters;
}

}  // namespace

TrainingSteps::TrainingSteps(const OptimizerConfig& config, DeviceContext& context,
                             ParameterStore& parameters)
    : content_(new Content{.config = config,
                           .context = context,
                           .parameters = allocated(parameters),
                           .state = StepState(context),
                           .optimizer = make_optimizer(config, context, parameters),
                           .squared_norm = Tensor::zeros(context, DType::f64, {1})}) {}

TrainingSteps::~TrainingSteps() = default;

void TrainingSteps::start(int64_t step, double learning_rate, double loss_scale) {
  if (content_->started)
    throw_user("training steps: step {} starts before the last one had its update", step);
  if (step < 0) throw_user("training steps: steps are numbered from 0, not {}", step);
  content_->state.start(static_cast<uint64_t>(step), learning_rate, loss_scale);
  content_->parameters.start_gradients();
  content_->started = true;
}

RandomKey TrainingSteps::random(uint64_t seed, int64_t first_example) const {
  return {.seed = seed, .first_example = first_example, .device_step = &content_->state.scalars()->step};
}

const double* TrainingSteps::loss_scale() const {
  return &content_->state.scalars()->loss_scale;
}

void TrainingSteps::update(const Tensor& loss) {
  Content& content = *content_;
  if (!content.started) throw_user("training steps: an update without a step; call start first");
  if (loss &&
      (loss.dtype() != DType::f64 || loss.elements() == 0 || loss.device() != content.context.device()))
    throw_user("training steps: the loss is {} {}; f64 on the parameters' device is needed",
               name_of(loss.dtype()), loss.shape().text());
  content.started = false;
  content.parameters.finish_gradients();
  const Launch& launch = content.context.launch();
  const Tensor& gradients = content.parameters.gradients();
  kernels::sum_of_squares(launch, {.type = gradients.dtype(),
                                   .elements = gradients.elements(),
                                   .x = gradients.data(),
                                   .sum = content.squared_norm.as<double>()});
  kernels::step_control(launch, {.sum_of_squares = content.squared_norm.as<double>(),
                                 .loss = (loss ? loss : content.squared_norm).as<double>(),
                                 .clip_norm = content.config.clip_norm,
                                 .ema_decay = 0,
                                 .scalars = content.state.scalars()});
  content.optimizer->update(0, content.state.scalars());
  content.parameters.publish();
}

UpdateReport TrainingSteps::report() const {
  const kernels::StepScalars scalars = content_->state.read();
  return {.updates = static_cast<int64_t>(scalars.update),
          .gradient_norm = scalars.gradient_norm,
          .finite = scalars.finite != 0};
}

std::vector<NamedTensor> TrainingSteps::state() const {
  return content_->optimizer->state();
}

void TrainingSteps::set_updates(int64_t updates) {
  if (updates < 0) throw_user("training steps: {} updates", updates);
  content_->state.set_updates(updates);
}

}  // namespace perceiver
