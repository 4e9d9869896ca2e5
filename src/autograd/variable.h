// Values with gradients.
#pragma once

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

  const Shape& shape() const { return value.shape(); }
};

}  // namespace perceiver
