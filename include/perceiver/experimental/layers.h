// Layers: the parameters of operations that go together.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <string>
#include <vector>

#include "perceiver/config.h"
#include "perceiver/experimental/ops.h"
#include "perceiver/experimental/parameters.h"
#include "perceiver/export.h"

namespace perceiver {

/// Declare the parameters of a LayerNorm ("NAME.scale", "NAME.offset", [channels]) and of a linear layer
/// ("NAME.weight" [out, in] and, with a bias, "NAME.bias" [out], which starts at zero).
PERCEIVER_API void declare_norm(ParameterStore& store, ops::NormParameters& norm, const std::string& name,
                                int64_t channels);
PERCEIVER_API void declare_linear(ParameterStore& store, ops::LinearParameters& linear,
                                  const std::string& name, int64_t in, int64_t out,
                                  Initializer weight = Initializer::fan_in, bool bias = true);

/// Linear to `widening` times the channels, activation, linear back (docs/model.md, "Forward"); its dropout
/// belongs to the residual addition. [rows, channels] → [rows, channels].
class PERCEIVER_API Mlp {
 public:
  void declare(ParameterStore& store, const std::string& name, int64_t channels, int64_t widening,
               Activation activation, bool bias = true);
  /// The MLP of x, plus `residual` if that has a value.
  Variable forward(Tape& tape, const Variable& x, const Variable& residual = {}) const;
  std::vector<ops::LinearParameters*> linears() { return {&first_, &second_}; }
  const ops::LinearParameters& first() const { return first_; }
  const ops::LinearParameters& second() const { return second_; }

 private:
  ops::LinearParameters first_, second_;
  Activation activation_ = Activation::squared_relu;
};

}  // namespace perceiver
