// Values with gradients.
#pragma once

#include <functional>
#include <memory>

#include "core/tensor.h"

namespace perceiver {

/// The gradient of one value: absent until backward writes it first.
struct Gradient {
  Tensor tensor;  ///< shape of the value; preallocated for parameters
  Shape shape;
  DType dtype = DType::f32;
  bool written = false;
  bool preallocated = false;  ///< a parameter's: its place in the flat gradient buffer is fixed
};

/// A tensor and, where one is wanted, its gradient. The two are apart so that an operation's backward keeps
/// alive only what it reads.
struct Variable {
  Tensor value;
  std::shared_ptr<Gradient> gradient;  ///< null for constants

  /// Where it is cheap to make the value again, how: then backward need not keep it.
  std::shared_ptr<const std::function<Tensor()>> restore = {};

  const Shape& shape() const { return value.shape(); }
  /// What a backward that reads the value keeps of it.
  Variable kept() const { return {restore ? Tensor() : value, gradient, restore}; }
  /// What a backward that only writes the gradient keeps.
  Variable gradient_only() const { return {Tensor(), gradient}; }
  Tensor read() const { return value || !restore ? value : (*restore)(); }
};

}  // namespace perceiver
