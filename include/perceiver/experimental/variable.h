// Values with gradients: what operations take and return.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <functional>
#include <memory>

#include "perceiver/experimental/tensor.h"

namespace perceiver {

/// The gradient of one value: absent until backward writes it first.
struct Gradient {
  Tensor tensor;  ///< shape of the value; preallocated for parameters
  Shape shape;
  DType dtype = DType::f32;
  bool written = false;
  bool preallocated = false;  ///< a parameter's, at a fixed place in the flat gradient buffer
};

/// A tensor and, if one is wanted, its gradient. They are separate so that an operation's backward keeps
/// alive only what it reads.
struct Variable {
  Tensor value;
  std::shared_ptr<Gradient> gradient;  ///< null for constants

  /// Recomputes the value, if that is cheap: then backward need not keep it.
  std::shared_ptr<const std::function<Tensor()>> restore = {};

  const Shape& shape() const { return value.shape(); }
  /// What to keep for a backward that reads the value.
  Variable kept() const { return {restore ? Tensor() : value, gradient, restore}; }
  /// What to keep for a backward that only writes the gradient.
  Variable gradient_only() const { return {Tensor(), gradient}; }
  Tensor read() const { return value || !restore ? value : (*restore)(); }
};

}  // namespace perceiver
