// A tensor is a small value: shape, element type and shared ownership of contiguous storage. Copying a tensor
// shares its storage; nothing is cast, copied or moved between devices implicitly.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "perceiver/experimental/device_context.h"
#include "perceiver/experimental/dtype.h"
#include "perceiver/export.h"

namespace perceiver {

/// Up to four extents, row-major; the last varies fastest. Throws `user` for more, or for a negative one.
class PERCEIVER_API Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);
  explicit Shape(std::span<const int64_t> extents);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extents_[static_cast<size_t>(axis)]; }
  int64_t last() const { return rank_ == 0 ? 1 : extents_[static_cast<size_t>(rank_ - 1)]; }
  int64_t elements() const;
  /// Product of all extents but the last: the number of rows of the tensor seen as a matrix.
  int64_t rows() const { return last() == 0 ? 0 : elements() / last(); }
  std::vector<int64_t> vector() const { return {extents_.begin(), extents_.begin() + rank_}; }
  bool operator==(const Shape&) const = default;
  std::string text() const;

 private:
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

/// Copies may be used by several threads like any values; their shared contents, as work on the device is
/// ordered. Reading a GPU's contents on the host waits for the work enqueued so far.
class PERCEIVER_API Tensor {
 public:
  Tensor() = default;

  /// Memory with unspecified contents from the context's allocator; throws `failure` if there is none left.
  static Tensor empty(DeviceContext& context, DType dtype, Shape shape);
  static Tensor zeros(DeviceContext& context, DType dtype, Shape shape);
  /// Zeros in plain host memory, of no context.
  static Tensor on_host(DType dtype, Shape shape);
  /// Shape and type alone, of contents that are kept in another form: data() is null.
  static Tensor without_contents(DeviceContext& context, DType dtype, Shape shape);
  /// A copy of host values; throws `user` unless there is one for each element. E.g.
  /// from_host<float>(context, {2, 3}, vector).
  template <typename T>
  static Tensor from_host(DeviceContext& context, Shape shape, std::span<const T> values) {
    Tensor tensor = empty(context, DTypeOf<T>::value, shape);
    tensor.copy_from_host(std::as_bytes(values));
    return tensor;
  }

  explicit operator bool() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int64_t elements() const { return shape_.elements(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype_); }
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

  /// Whether no other tensor shares the storage, so that it may be written in place.
  bool unique() const { return shared_by(1); }
  bool shared_by(long holders) const { return storage_.use_count() == holders; }

  /// The same storage from element `offset` on, with another shape; throws `user` if it ends before that
  /// does.
  Tensor view(int64_t offset, Shape shape) const;
  Tensor reshaped(Shape shape) const { return view(0, shape); }
  /// The storage from byte `offset` on, a multiple of the element's size, as elements of another type; throws
  /// `user` if it ends before that does.
  Tensor part(size_t offset, DType dtype, Shape shape) const;

  /// Both throw `user` if sizes differ.
  void copy_from_host(std::span<const std::byte> source) const;
  void copy_to_host(std::span<std::byte> target) const;
  /// The values, of an element type as large as the tensor's (bf16: uint16_t, or `host_doubles`).
  template <typename T>
  std::vector<T> to_host() const {
    std::vector<T> values(static_cast<size_t>(elements()));
    copy_to_host(std::as_writable_bytes(std::span<T>(values)));
    return values;
  }
  /// Copies from a tensor of the same size on the same device, in stream order; throws `user` for another.
  void copy_from(const Tensor& source) const;
  void fill_zero() const;
  /// The tensor itself if it is on the CPU, else a copy there.
  Tensor on_host() const;

 private:
  void check_bytes(size_t count) const;

  std::shared_ptr<void> storage_;
  DeviceMemory* memory_ = nullptr;  ///< kept alive by the storage; null: plain host memory
  void* data_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_;
};

/// A tensor of a file (tensor_file.h).
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

}  // namespace perceiver
