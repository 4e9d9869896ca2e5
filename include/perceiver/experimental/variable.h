// Values with gradients: what operations take and return.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "perceiver/experimental/tensor.h"

namespace perceiver {

struct Fp8Codes;  // of a matrix in 8 bits (ops/fp8.h)
namespace ops {
struct Fp8Layer;
}

/// The gradient of one value: absent until backward writes it first.
struct Gradient {
  Tensor tensor;  ///< shape of the value; preallocated for parameters
  Shape shape;
  DType dtype = DType::f32;
  bool written = false;
  bool preallocated = false;  ///< a parameter's, at a fixed place in the flat gradient buffer
  /// [columns] in the accumulation type, where the operation that wrote `tensor` last left them.
  Tensor column_sums = {};
  /// The gradient in 8 bits, likewise.
  std::shared_ptr<const Fp8Codes> codes = {};
};

/// How a value is made again, where that is cheap.
struct Recomputation {
  std::function<Tensor()> value;
  /// Where the backward of the operation makes it anyway: the gradient of its result, without which it does
  /// not run, and what waits for the value.
  const Gradient* in_backward_of = nullptr;
  std::vector<std::function<void(const Tensor&)>> waiting = {};
};

/// A tensor and, if one is wanted, its gradient. They are separate so that an operation's backward keeps
/// alive only what it reads.
struct Variable {
  Tensor value;
  std::shared_ptr<Gradient> gradient;  ///< null for constants

  /// Then backward need not keep the value.
  std::shared_ptr<Recomputation> restore = {};
  /// Whether the backward of the operation that made it reads Gradient::column_sums.
  bool wants_column_sums = false;
  /// The layer in 8 bits that made it, if the backward of that reads Gradient::codes.
  std::shared_ptr<const ops::Fp8Layer> wants_codes = {};
  /// In 8 bits, for the one operation that reads it; `value` may then have no contents.
  std::shared_ptr<const Fp8Codes> codes = {};

  const Shape& shape() const { return value.shape(); }
  /// What to keep for a backward that reads the value.
  Variable kept() const {
    return {restore ? Tensor() : value, gradient, restore, wants_column_sums, wants_codes};
  }
  /// What to keep for a backward that only writes the gradient.
  Variable gradient_only() const { return {Tensor(), gradient, {}, wants_column_sums, wants_codes}; }
  Tensor read() const { return value || !restore ? value : restore->value(); }
  /// For a backward that writes this variable's gradient: calls `use` with the value, now or when a later
  /// backward of the same pass makes it.
  void read_later(std::function<void(const Tensor&)> use) const {
    const bool made_later = !value && restore && gradient && restore->in_backward_of == gradient.get();
    if (!made_later) return use(read());
    restore->waiting.push_back(std::move(use));
  }
};

}  // namespace perceiver
