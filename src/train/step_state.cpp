#include "train/step_state.h"

#include <cstddef>
#include <span>

namespace perceiver {
namespace {

// The host writes the scalars before this field, the device the rest.
constexpr size_t kHostScalars = offsetof(kernels::StepScalars, update);

}  // namespace

StepState::StepState(DeviceContext& context)
    : tensor_(Tensor::zeros(context, DType::u8, {sizeof(kernels::StepScalars)})) {}

void StepState::start(uint64_t step, double learning_rate, double loss_scale) {
  kernels::StepScalars host{};
  host.step = step;
  host.loss_scale = loss_scale;
  host.learning_rate = learning_rate;
  tensor_.view(0, {kHostScalars}).copy_from_host(std::as_bytes(std::span(&host, 1)).first(kHostScalars));
}

void StepState::set_updates(int64_t updates) {
  const auto number = static_cast<double>(updates);
  tensor_.view(kHostScalars, {sizeof number}).copy_from_host(std::as_bytes(std::span(&number, 1)));
}

kernels::StepScalars StepState::read() const {
  kernels::StepScalars host{};
  tensor_.copy_to_host(std::as_writable_bytes(std::span(&host, 1)));
  return host;
}

}  // namespace perceiver
