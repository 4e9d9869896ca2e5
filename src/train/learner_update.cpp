// The end of a step: what counts how much, the gradient's norm, the update, the moving average.
#include "kernels/elementwise.h"
#include "kernels/optimizer.h"
#include "kernels/ranks.h"
#include "train/learner.h"

namespace perceiver {

/// The targets of all ranks decide how much each counts.
void Learner::share_targets() {
  if (!exchange_) return;
  exchange_->ranks().all_reduce(shared_);
  kernels::shared_loss_scale(model_.context().launch(), {.targets = shared_.as<double>(),
                                                         .mean = config_.loss.reduction == Reduction::mean,
                                                         .sharing = sharing(),
                                                         .scalars = scalars()});
}

void Learner::update() {
  const Launch& launch = model_.context().launch();
  for (size_t i = 0; i < slices_.size(); ++i) {
    if (exchange_ && !exchange_->counts(i)) continue;
    const Tensor& gradients = slices_[i].gradients;
    kernels::sum_of_squares(launch, {.type = gradients.dtype(),
                                     .elements = gradients.elements(),
                                     .x = gradients.data(),
                                     .sum = squared_norms_.as<double>() + i});
  }
  if (exchange_) {
    kernels::pack_totals(launch, {.loss_totals = totals_.as<double>(),
                                  .squared_norms = squared_norms_.as<double>(),
                                  .count = squared_norms_.elements(),
                                  .totals = all_totals_.as<double>()});
    exchange_->ranks().all_reduce(all_totals_);
  }
  const auto* totals = (exchange_ ? all_totals_ : totals_).as<double>();
  kernels::step_control(launch, {.sum_of_squares = exchange_ ? totals + 5 : squared_norms_.as<double>(),
                                 .loss = totals,
                                 .clip_norm = config_.optimizer.clip_norm,
                                 .ema_decay = config_.train.ema_decay,
                                 .scalars = scalars()});
  if (fp8_) fp8_->rescale(scalars());
  for (size_t i = 0; i < slices_.size(); ++i) update_slice(i);
  if (exchange_) exchange_->finish_publishing();
  memory_.commit(model_.context(), &scalars()->finite);
}

void Learner::update_slice(size_t slice) {
  optimizer_->update(slice, scalars());
  publish(slice, optimizer_->rounds() && slices_[slice].rounded);
  if (!average_) return;
  const Tensor& values = slices_[slice].values;
  kernels::moving_average(model_.context().launch(), {.type = values.dtype(),
                                                      .elements = values.elements(),
                                                      .values = values.data(),
                                                      .average = average_of(slice).data(),
                                                      .scalars = scalars()});
}

/// Gives passes the new values of a slice; `rounded`: they are in the weights that passes read already.
void Learner::publish(size_t slice, bool rounded) {
  if (exchange_) return exchange_->publish(slice, rounded);
  if (!rounded) model_.parameters().publish();
}

Tensor Learner::average_of(size_t slice) const {
  const Slice& place = slices_[slice].place;
  return average_.view(place.state_begin, {place.elements});
}

void Learner::swap_average() {
  if (!average_) return;
  for (size_t i = 0; i < slices_.size(); ++i) {
    const Tensor& values = slices_[i].values;
    kernels::swap(model_.context().launch(), {.type = values.dtype(),
                                              .elements = values.elements(),
                                              .a = values.data(),
                                              .b = average_of(i).data()});
    publish(i, false);
  }
  if (!exchange_) return;
  exchange_->finish_publishing();
  exchange_->settle();
}

}  // namespace perceiver
