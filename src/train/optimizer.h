// How the parameters follow their gradients. The formulas are the kernels' (kernels/kernels.h); what stands
// here is their state, in flat buffers, and which parameters weight decay and layerwise scaling apply to.
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

  /// Moves the parameters by their gradients. `scalars` is in the device's memory. Allocates nothing.
  virtual void update(const kernels::StepScalars* scalars) = 0;
  /// Everything that the next update depends on beside parameters and scalars, as tensors of the parameters'
  /// shapes named "<optimizer>.<moment>/<parameter>" (adafactor: of their rows and columns). They share the
  /// optimizer's memory: writing them restores a state.
  virtual std::vector<NamedTensor> state() const = 0;

 protected:
  Optimizer() = default;
};

/// An optimizer for `parameters`, which must outlive it; its state starts at zero.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, DeviceContext& context,
                                          ParameterStore& parameters);

/// Whether weight decay applies: to the matrices of linear layers, not to biases, LayerNorm parameters and
/// tables (token and position embeddings, learned queries, latent indices).
bool decays(const ParameterInfo& parameter);

/// The tiles of all parameters (kernels::ParameterTile), each of at most 4096 elements.
std::vector<kernels::ParameterTile> parameter_tiles(const ParameterStore& parameters, double weight_decay);

}  // namespace perceiver
