// What a checkpoint keeps of a learner, and how it comes back.
#include "base/check.h"
#include "kernels/elementwise.h"
#include "perceiver/experimental/host_values.h"
#include "train/learner.h"

namespace perceiver {

Tensor Learner::collect(const Tensor& state) const {
  if (exchange_) return exchange_->collect(state);
  return (state ? state : slices_.front().values).on_host();
}

Tensor Learner::collect_values() const {
  return collect({});
}

Tensor Learner::collect_average() const {
  return average_ ? collect(average_) : Tensor();
}

std::vector<NamedTensor> Learner::collect_optimizer_state() const {
  std::vector<NamedTensor> tensors;
  const std::vector<NamedTensor> buffers = optimizer_->buffers();
  const bool leads = !exchange_ || exchange_->ranks().rank() == 0;
  if (buffers.empty()) tensors = optimizer_->collect_state();
  for (const NamedTensor& buffer : buffers) {
    const Tensor flat = collect(buffer.tensor);
    for (const ParameterInfo& info : model_.parameters().infos())
      if (leads)
        tensors.push_back({fmt::format("{}/{}", buffer.name, info.name), flat.view(info.offset, info.shape)});
  }
  if (!leads) return {};
  if (fp8_)
    for (const NamedTensor& each : fp8_->tensors()) tensors.push_back({each.name, each.tensor.on_host()});
  return tensors;
}

void Learner::load_optimizer_state(const ReadTensor& read) {
  const std::vector<NamedTensor> buffers = optimizer_->buffers();
  if (!exchange_ || buffers.empty()) {
    for (const NamedTensor& each : optimizer_->state()) read(each.name, each.tensor.shape(), each.tensor);
    return;
  }
  for (const NamedTensor& buffer : buffers) load_buffer(buffer.tensor, buffer.name + "/", read);
}

void Learner::load_fp8_scales(const ReadTensor& read) {
  PERCEIVER_ASSERT(fp8_);
  for (const NamedTensor& each : fp8_->tensors()) read(each.name, each.tensor.shape(), each.tensor);
  fp8_->set_calibrated();
}

void Learner::load_average(const ReadTensor& read) {
  if (average_) load_buffer(average_, "", read);
}

std::vector<NamedTensor> Learner::collect_memory() const {
  std::vector<NamedTensor> tensors;
  if (!remembers()) return tensors;
  const Shape shape{config_.train.batch, memory_.length, model_.config().z_channels()};
  const bool leads = !exchange_ || exchange_->ranks().rank() == 0;
  for (int64_t layer = 0; layer < model_.config().layers; ++layer) {
    const Tensor all = memory_of_all_ranks(memory_.layer(memory_.hidden, layer, 0, memory_.streams));
    if (leads) tensors.push_back({fmt::format("layer.{}", layer), all.on_host().reshaped(shape)});
  }
  return tensors;
}

/// In the accumulation type. Each rank adds its own examples to zeros.
Tensor Learner::memory_of_all_ranks(const Tensor& own) const {
  const DType wide = accumulation_type(own.dtype());
  const int64_t row = own.elements() / memory_.streams;
  const Tensor all = Tensor::zeros(model_.context(), wide, {config_.train.batch * row});
  for (int64_t i = 0; i < memory_.streams; ++i) {
    const Tensor from = own.view(i * row, {row}), to = all.view(ranks_.share.example(i) * row, {row});
    if (own.dtype() == wide) {
      to.copy_from(from);
      continue;
    }
    kernels::cast(model_.context().launch(),
                  {.from = own.dtype(), .to = wide, .elements = row, .x = from.data(), .y = to.data()});
  }
  if (exchange_) exchange_->ranks().all_reduce(all);
  return all;
}

void Learner::load_memory(const ReadTensor& read) {
  if (!remembers()) return;
  const int64_t channels = model_.config().z_channels(), row = memory_.length * channels;
  const Shape shape{config_.train.batch, memory_.length, channels};
  for (int64_t layer = 0; layer < model_.config().layers; ++layer) {
    const Tensor all = Tensor::on_host(accumulation_type(model_.type()), shape);
    read(fmt::format("layer.{}", layer), shape, all);
    const std::vector<double> values = host_doubles(all);
    fill(memory_.layer(memory_.hidden, layer, 0, memory_.streams), [&](int64_t i) {
      return values[static_cast<size_t>(ranks_.share.example(i / row) * row + i % row)];
    });
  }
}

void Learner::load_buffer(const Tensor& state, const std::string& prefix, const ReadTensor& read) {
  const ParameterStore& parameters = model_.parameters();
  const Tensor flat = exchange_ ? Tensor::on_host(state.dtype(), {parameters.size()}) : state;
  for (const ParameterInfo& info : parameters.infos())
    read(prefix + info.name, info.shape, flat.view(info.offset, info.shape));
  if (exchange_) exchange_->distribute(flat, state);
}

Learner::Bytes Learner::bytes() const {
  const ParameterStore& parameters = model_.parameters();
  const auto size = [](const Tensor& tensor) { return tensor ? static_cast<int64_t>(tensor.bytes()) : 0; };
  const Tensor& read = parameters.read_values();
  Bytes bytes{.weights = size(read),
              .gradients = size(parameters.gradients()),
              .optimizer = optimizer_->work_bytes(),
              .average = size(average_),
              .memory = 2 * size(memory_.hidden)};
  for (const UpdatedSlice& slice : slices_)
    if (slice.values.dtype() != read.dtype()) bytes.weights += size(slice.values);
  if (fp8_) bytes.weights += fp8_->bytes();
  if (exchange_) bytes.gradients = exchange_->gradient_bytes();
  const std::vector<NamedTensor> buffers = optimizer_->buffers();
  for (const NamedTensor& each : buffers.empty() ? optimizer_->state() : buffers)
    bytes.optimizer += size(each.tensor);
  return bytes;
}

bool Learner::weights_are_finite() const {
  const Tensor counter = Tensor::empty(model_.context(), DType::f64, {1});  // as large as an int64
  for (const UpdatedSlice& slice : slices_) {
    kernels::count_non_finite(model_.context().launch(), {.type = slice.values.dtype(),
                                                          .elements = slice.values.elements(),
                                                          .x = slice.values.data(),
                                                          .count = static_cast<int64_t*>(counter.data())});
    int64_t count = 0;
    counter.copy_to_host(std::as_writable_bytes(std::span(&count, 1)));
    if (count != 0) return false;
  }
  return true;
}

}  // namespace perceiver
