// Optimizers: their state, in flat buffers, and which parameters weight decay and layerwise scaling apply to.
// The update formulas are with the kernels (kernels/optimizer.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "kernels/optimizer.h"
#include "nn/parameters.h"
#include "perceiver/config.h"

namespace perceiver {

/// A tensor of a checkpoint.
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Updates the parameters from their gradients. `scalars` is in device memory. Allocates nothing.
  virtual void update(const kernels::StepScalars* scalars) = 0;
  /// Everything the next update depends on besides parameters and scalars: tensors of the parameters' shapes
  /// (adafactor: of their rows and columns) named "<optimizer>.<moment>/<parameter>". They share the
  /// optimizer's memory: writing them restores a state.
  virtual std::vector<NamedTensor> state() const = 0;

 protected:
  Optimizer() = default;
};

/// An optimizer for `parameters`, which must outlive it; its state starts at zero.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, DeviceContext& context,
                                          ParameterStore& parameters);

/// True where weight decay applies: matrices of linear layers, but not biases, LayerNorm parameters and
/// tables (token and position embeddings, learned queries, latent indices).
bool decays(const ParameterInfo& parameter);

/// The tiles of all parameters (kernels::ParameterTile), at most 4096 elements each.
std::vector<kernels::ParameterTile> parameter_tiles(const ParameterStore& parameters, double weight_decay);

}  // namespace perceiver
