#include "train/fp8_state.h"

#include "kernels/fp8.h"

namespace perceiver {

Fp8State::Fp8State(PerceiverAR& model, std::shared_ptr<Communicator> ranks)
    : model_(model), ranks_(std::move(ranks)), recipe_(std::make_shared<Fp8Recipe>()) {
  DeviceContext& context = model.context();
  const std::vector<ops::LinearParameters*> layers = model.block_linears();
  const int64_t sites = static_cast<int64_t>(layers.size()) * ops::kFp8Sites;
  recipe_->ranks = ranks_ ? ranks_->size() : 1;
  recipe_->rank = ranks_ ? ranks_->rank() : 0;
  const std::vector<float> ones(8 * static_cast<size_t>(sites), 1);
  recipe_->scales = Tensor::from_host<float>(context, {sites, 2, 4}, ones);
  recipe_->largest = Tensor::zeros(context, DType::f32, {recipe_->ranks, sites});
  recipe_->peaks = Tensor::zeros(context, DType::f32, {sites});
  weights_ = std::make_unique<ops::Fp8Weights>(context, recipe_, layers);
}

Fp8State::~Fp8State() {
  for (ops::LinearParameters* layer : model_.block_linears()) layer->fp8 = nullptr;
}

void Fp8State::start_pass() {
  recipe_->calibrating = !calibrated_;
  weights_->quantise();
}

void Fp8State::end_pass() {
  recipe_->calibrating = false;
  calibrated_ = true;
}

void Fp8State::rescale(const kernels::StepScalars* scalars) {
  if (ranks_) ranks_->all_gather(recipe_->largest);
  kernels::Fp8Rescale rescaling = recipe_->rescaling(0, recipe_->sites());
  rescaling.scalars = scalars;
  kernels::fp8_rescale(model_.context().launch(), rescaling);
}

void Fp8State::forget_pass() {
  recipe_->largest.fill_zero();
}

std::vector<NamedTensor> Fp8State::tensors() const {
  return {{fp8_peaks_name, recipe_->peaks}, {"fp8.scales", recipe_->scales}};
}

}  // namespace perceiver
