#include "core/tensor.h"

#include <algorithm>

#include "core/check.h"

namespace perceiver {

Shape::Shape(std::initializer_list<int64_t> extents)
    : Shape(std::span<const int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  PERCEIVER_ASSERT(extents.size() <= kMaxRank);
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
  tensor.data_ = context.allocator().allocate(tensor.bytes());
  tensor.storage_ = std::shared_ptr<void>(
      tensor.data_, [allocator = context.shared_allocator()](void* pointer) { allocator->release(pointer); });
  return tensor;
}

Tensor Tensor::zeros(DeviceContext& context, DType dtype, Shape shape) {
  Tensor tensor = empty(context, dtype, shape);
  tensor.fill_zero();
  return tensor;
}

Tensor Tensor::view(int64_t offset, Shape shape) const {
  PERCEIVER_ASSERT(offset >= 0 && offset + shape.elements() <= elements());
  Tensor result = *this;
  result.shape_ = shape;
  result.data_ = static_cast<std::byte*>(data_) + static_cast<size_t>(offset) * size_of(dtype_);
  return result;
}

void Tensor::copy_from_host(std::span<const std::byte> source) const {
  PERCEIVER_ASSERT(source.size() == bytes());
  if (!source.empty()) std::memcpy(data_, source.data(), source.size());
}

void Tensor::copy_to_host(std::span<std::byte> target) const {
  PERCEIVER_ASSERT(target.size() == bytes());
  if (!target.empty()) std::memcpy(target.data(), data_, target.size());
}

void Tensor::fill_zero() const {
  if (bytes() > 0) std::memset(data_, 0, bytes());
}

}  // namespace perceiver
