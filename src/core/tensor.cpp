#include "perceiver/experimental/tensor.h"

#include <algorithm>

#include "base/check.h"

namespace perceiver {

Shape::Shape(std::initializer_list<int64_t> extents)
    : Shape(std::span<const int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  if (extents.size() > kMaxRank)
    throw_user("shape [{}]: at most {} axes", fmt::join(extents, ", "), int{kMaxRank});
  if (std::any_of(extents.begin(), extents.end(), [](int64_t extent) { return extent < 0; }))
    throw_user("shape [{}]: a negative extent", fmt::join(extents, ", "));
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

int64_t Shape::elements() const {
  int64_t product = 1;
  for (int axis = 0; axis < rank_; ++axis) product *= extents_[static_cast<size_t>(axis)];
  return product;
}

std::string Shape::text() const {
  return fmt::format("[{}]", fmt::join(vector(), ", "));
}

Tensor Tensor::empty(DeviceContext& context, DType dtype, Shape shape) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  tensor.device_ = context.device();
  tensor.memory_ = context.memory().get();
  tensor.data_ = tensor.memory_->allocate(tensor.bytes());
  tensor.storage_ = std::shared_ptr<void>(
      tensor.data_, [memory = context.memory()](void* pointer) { memory->release(pointer); });
  return tensor;
}

Tensor Tensor::zeros(DeviceContext& context, DType dtype, Shape shape) {
  Tensor tensor = empty(context, dtype, shape);
  tensor.fill_zero();
  return tensor;
}

Tensor Tensor::on_host(DType dtype, Shape shape) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  tensor.storage_ = std::make_shared<std::byte[]>(tensor.bytes());
  tensor.data_ = tensor.storage_.get();
  return tensor;
}

Tensor Tensor::without_contents(DeviceContext& context, DType dtype, Shape shape) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  tensor.device_ = context.device();
  tensor.storage_ = std::make_shared<std::byte>();  // so that it is a tensor
  return tensor;
}

Tensor Tensor::part(size_t offset, DType dtype, Shape shape) const {
  const size_t wanted = static_cast<size_t>(shape.elements()) * size_of(dtype);
  if (offset % size_of(dtype) != 0 || offset + wanted > bytes())
    throw_user("tensor {} of {}: no {} of {} from byte {} on", shape_.text(), name_of(dtype_), shape.text(),
               name_of(dtype), offset);
  Tensor result = *this;
  result.dtype_ = dtype;
  result.shape_ = shape;
  result.data_ = static_cast<std::byte*>(data_) + offset;
  return result;
}

Tensor Tensor::view(int64_t offset, Shape shape) const {
  if (offset < 0 || offset + shape.elements() > elements())
    throw_user("tensor {}: no {} from element {} on", shape_.text(), shape.text(), offset);
  Tensor result = *this;
  result.shape_ = shape;
  result.data_ = static_cast<std::byte*>(data_) + static_cast<size_t>(offset) * size_of(dtype_);
  return result;
}

void Tensor::check_bytes(size_t count) const {
  if (count != bytes())
    throw_user("tensor {} of {} has {} bytes, not {}", shape_.text(), name_of(dtype_), bytes(), count);
}

void Tensor::copy_from_host(std::span<const std::byte> source) const {
  check_bytes(source.size());
  if (source.empty()) return;
  if (memory_ != nullptr) return memory_->upload(data_, source.data(), source.size());
  std::memcpy(data_, source.data(), source.size());
}

void Tensor::copy_to_host(std::span<std::byte> target) const {
  check_bytes(target.size());
  if (target.empty()) return;
  if (memory_ != nullptr) return memory_->download(target.data(), data_, target.size());
  std::memcpy(target.data(), data_, target.size());
}

void Tensor::copy_from(const Tensor& source) const {
  if (memory_ == nullptr || source.memory_ == nullptr || device_ != source.device_)
    throw_user("tensor {}: copy_from copies within a device; use copy_from_host or copy_to_host",
               shape_.text());
  check_bytes(source.bytes());
  memory_->copy(data_, source.data_, bytes());
}

void Tensor::fill_zero() const {
  if (bytes() == 0) return;
  if (memory_ != nullptr) return memory_->zero(data_, bytes());
  std::memset(data_, 0, bytes());
}

Tensor Tensor::on_host() const {
  if (device_.kind == DeviceKind::cpu) return *this;
  Tensor host;
  host.shape_ = shape_;
  host.dtype_ = dtype_;
  host.storage_ = std::make_shared_for_overwrite<std::byte[]>(bytes());
  host.data_ = host.storage_.get();
  copy_to_host({static_cast<std::byte*>(host.data_), bytes()});
  return host;
}

}  // namespace perceiver
