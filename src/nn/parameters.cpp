#include "perceiver/experimental/parameters.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "base/worker_pool.h"
#include "kernels/elementwise.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

constexpr int64_t kAlignment =
    16;  // elements: parameters start at multiples, so that vector loads never straddle two
// Standard deviation of a standard normal truncated at two standard deviations.
constexpr double kTruncatedDeviation = 0.87962566103423978;

/// A standard normal truncated at +-2, by rejection.
double truncated_normal(RandomStream& random) {
  for (;;) {
    const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
    const double x = radius * std::cos(2 * std::numbers::pi * random.uniform());
    if (std::abs(x) < 2) return x;
  }
}

double draw(const ParameterInfo& info, RandomStream& random, int64_t element) {
  const Initialization& how = info.initialization;
  switch (how.kind) {
    case Initializer::zeros:
      return 0;
    case Initializer::ones:
      return 1;
    case Initializer::values:
      return how.value(element);
    case Initializer::truncated_normal:
      return how.deviation * truncated_normal(random);
    case Initializer::fan_in:
      return truncated_normal(random) /
             (kTruncatedDeviation * std::sqrt(static_cast<double>(info.shape.last())));
  }
  return 0;
}

template <typename T>
void initialize_values(WorkerPool& workers, const std::vector<ParameterInfo>& infos, uint64_t seed,
                       const Tensor& values) {
  std::vector<T> host(static_cast<size_t>(values.elements()), T(0));
  workers.run(static_cast<int64_t>(infos.size()), [&](int64_t place) {
    const ParameterInfo& info = infos[static_cast<size_t>(place)];
    RandomStream random(seed, RandomPurpose::initialization, static_cast<uint64_t>(place));
    for (int64_t i = 0; i < info.elements(); ++i)
      host[static_cast<size_t>(info.offset + i)] = static_cast<T>(draw(info, random, i));
  });
  values.copy_from_host(std::as_bytes(std::span<const T>(host)));
}

}  // namespace

void ParameterStore::declare(Variable& target, std::string name, Shape shape, Initialization initialization,
                             ParameterUse use) {
  declare_packed(target, {std::move(name)}, shape, std::move(initialization));
  infos_.back().use = use;
}

void ParameterStore::declare_packed(Variable& target, const std::vector<std::string>& names, Shape each,
                                    Initialization initialization) {
  if (names.empty() || each.rank() == 0)
    throw_user("parameter {}: a shape with at least one axis is needed", names.empty() ? "" : names[0]);
  for (const std::string& name : names) {
    if (context_ != nullptr) throw_user("parameter {}: declared after the memory was allocated", name);
    if (find(name) != nullptr) throw_user("parameter {}: declared twice", name);
  }
  size_ = (size_ + kAlignment - 1) / kAlignment * kAlignment;
  std::vector<int64_t> whole = each.vector();
  whole[0] *= static_cast<int64_t>(names.size());
  declarations_.push_back({&target, Shape(whole), size_});
  for (const std::string& name : names) {
    infos_.push_back({.name = name, .shape = each, .offset = size_, .initialization = initialization});
    size_ += each.elements();
  }
}

void ParameterStore::allocate(DeviceContext& context, DType type) {
  if (context_ != nullptr) throw_user("parameters: allocated twice");
  if (!context.computes_in(type))
    throw_user("parameters: {} does not compute in {}; use {}", context.name(), name_of(type),
               context.is_cuda() ? "f32 or bf16" : "f32 or f64");
  context_ = &context;
  values_ = Tensor::zeros(context, accumulation_type(type), {size_});
  gradients_ = Tensor::zeros(context, accumulation_type(type), {size_});
  if (type != values_.dtype()) rounded_ = Tensor::zeros(context, type, {size_});
  const Tensor& read = rounded_ ? rounded_ : values_;
  for (const Declaration& declaration : declarations_) {
    auto slot = std::make_shared<Gradient>();
    slot->tensor = gradients_.view(declaration.offset, declaration.shape);
    slot->shape = declaration.shape;
    slot->dtype = gradients_.dtype();
    slot->preallocated = true;
    slots_.push_back(slot);
    *declaration.target = {read.view(declaration.offset, declaration.shape), slot};
  }
}

void ParameterStore::initialize(uint64_t seed) {
  if (!values_) throw_user("parameters: they have no memory yet; call allocate first");
  if (values_.dtype() == DType::f64) {
    initialize_values<double>(context_->workers(), infos_, seed, values_);
  } else {
    initialize_values<float>(context_->workers(), infos_, seed, values_);
  }
  publish();
}

int64_t ParameterStore::offset_of(const Variable& parameter) const {
  const void* const place = parameter.value.data();
  if (!forgot_) {
    const Tensor& flat = read_values();
    const auto bytes = static_cast<const std::byte*>(place) - static_cast<std::byte*>(flat.data());
    return bytes / static_cast<int64_t>(size_of(flat.dtype()));
  }
  const auto found = std::find_if(declarations_.begin(), declarations_.end(), [&](const Declaration& each) {
    return each.target == &parameter || (place != nullptr && each.place == place);
  });
  PERCEIVER_ASSERT(found != declarations_.end());
  return found->offset;
}

Variable ParameterStore::unrounded(const Variable& parameter) const {
  if (!rounded_ && !forgot_) return parameter;
  return {unrounded_values(offset_of(parameter), parameter.shape()), parameter.gradient};
}

Tensor ParameterStore::unrounded_values(int64_t offset, const Shape& shape) const {
  if (values_) return values_.view(offset, shape);
  const auto part = std::find_if(parts_.begin(), parts_.end(), [&](const ValuePart& each) {
    return each.begin <= offset && offset + shape.elements() <= each.begin + each.values.elements();
  });
  PERCEIVER_ASSERT(part != parts_.end());
  return part->values.view(offset - part->begin, shape);
}

void ParameterStore::keep_unrounded(const Variable& target) {
  const auto found = std::find_if(declarations_.begin(), declarations_.end(),
                                  [&](const Declaration& each) { return each.target == &target; });
  PERCEIVER_ASSERT(found != declarations_.end());
  found->unrounded = true;
}

std::vector<ParameterStore::Declared> ParameterStore::declared() const {
  std::vector<Declared> all;
  for (const Declaration& each : declarations_) {
    if (!all.empty()) all.back().end = each.offset;
    all.push_back({each.offset, size_, each.unrounded});
  }
  return all;
}

void ParameterStore::replace_values(std::vector<ValuePart> parts) {
  PERCEIVER_ASSERT(rounded_);
  values_ = {};
  parts_ = std::move(parts);
}

void ParameterStore::forget(const std::vector<const Variable*>& forgotten) {
  PERCEIVER_ASSERT(values_ && !forgot_);
  const auto copy = [this](const Tensor& of) {
    const Tensor own = Tensor::empty(*context_, of.dtype(), of.shape());
    own.copy_from(of);
    return own;
  };
  parts_.clear();
  for (Declaration& each : declarations_) {
    Tensor& value = each.target->value;
    each.target->gradient = nullptr;
    if (std::find(forgotten.begin(), forgotten.end(), each.target) != forgotten.end()) {
      value = Tensor::without_contents(*context_, value.dtype(), each.shape);
      continue;
    }
    const Tensor own = copy(values_.view(each.offset, each.shape));
    parts_.push_back({each.offset, own});
    value = rounded_ ? copy(value) : own;
    each.place = value.data();
  }
  forgot_ = true;
  slots_.clear();
  values_ = rounded_ = gradients_ = {};
}

void ParameterStore::place_gradients(int64_t begin, const Tensor& storage) {
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Declaration& each = declarations_[i];
    if (each.offset < begin || each.offset >= begin + storage.elements()) continue;
    slots_[i]->tensor = storage.view(each.offset - begin, each.shape);
  }
}

void ParameterStore::publish() const {
  if (!rounded_) return;
  kernels::cast(context_->launch(), {.from = values_.dtype(),
                                     .to = rounded_.dtype(),
                                     .elements = values_.elements(),
                                     .x = values_.data(),
                                     .y = rounded_.data()});
}

int64_t ParameterStore::count() const {
  int64_t total = 0;
  for (const ParameterInfo& info : infos_) total += info.elements();
  return total;
}

std::vector<NamedTensor> ParameterStore::tensors() const {
  std::vector<NamedTensor> all;
  for (const ParameterInfo& info : infos_) all.push_back({info.name, value(info)});
  return all;
}

const ParameterInfo* ParameterStore::find(const std::string& name) const {
  const auto found = std::find_if(infos_.begin(), infos_.end(),
                                  [&](const ParameterInfo& info) { return info.name == name; });
  return found == infos_.end() ? nullptr : &*found;
}

void ParameterStore::start_gradients() {
  for (const auto& slot : slots_) slot->written = false;
}

void ParameterStore::finish_gradients(int64_t first) {
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (declarations_[i].offset < first) continue;
    if (!slots_[i]->written) slots_[i]->tensor.fill_zero();
    slots_[i]->written = true;
  }
}

}  // namespace perceiver
