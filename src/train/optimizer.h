// Optimizers: their state, in flat buffers, and which parameters weight decay and layerwise scaling apply to.
// The update formulas are with the kernels (kernels/optimizer.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "kernels/optimizer.h"
#include "perceiver/config.h"
#include "perceiver/experimental/parameters.h"
#include "perceiver/experimental/tensor.h"
#include "train/partition.h"

namespace perceiver {

/// Part of the parameters that an optimizer updates: adjacent elements.
struct UpdatedSlice {
  Slice place;
  Tensor values;        ///< master weights, [place.elements]
  Tensor gradients;     ///< likewise
  Tensor rounded = {};  ///< bf16: what passes read, if an optimizer may write it with the values
};

/// All parameters as one slice.
UpdatedSlice whole_slice(const ParameterStore& parameters);

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Updates one of the slices from its gradients. `scalars` is in device memory. Allocates nothing.
  virtual void update(size_t slice, const kernels::StepScalars* scalars) = 0;
  /// Whether `update` also writes UpdatedSlice::rounded.
  virtual bool rounds() const { return false; }
  /// Everything the next update depends on besides parameters and scalars: tensors of the parameters' shapes
  /// (adafactor: of their rows and columns) named "<optimizer>.<moment>/<parameter>". They share the
  /// optimizer's memory: writing them restores a state.
  virtual std::vector<NamedTensor> state() const = 0;
  /// `state` of all ranks on the host of each. Collective if ranks have parts of it.
  virtual std::vector<NamedTensor> collect_state() const;
  /// Buffers that hold the state of the slices, each at its `state_begin`; `state` is made of views of these
  /// where one slice has everything. None for optimizers that cannot be divided.
  virtual std::vector<NamedTensor> buffers() const { return {}; }
  /// Bytes of the buffers that `update` computes in, besides the state.
  virtual int64_t work_bytes() const { return 0; }

 protected:
  Optimizer() = default;
};

/// An optimizer for `parameters`, which must outlive it; its state starts at zero.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, DeviceContext& context,
                                          ParameterStore& parameters);
/// An optimizer of `slices`, with buffers of `state_elements`. More than one slice, or one that is not
/// everything, needs `divides(config.type)`. `ranks`: among whom an optimizer may divide its work that
/// updates everything; null: nobody.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, DeviceContext& context,
                                          ParameterStore& parameters, std::vector<UpdatedSlice> slices,
                                          int64_t state_elements,
                                          std::shared_ptr<Communicator> ranks = nullptr);
/// Whether an optimizer of this type can update some elements of a parameter without the others.
bool divides(OptimizerType type);

/// Copies on the host.
std::vector<NamedTensor> on_host(const std::vector<NamedTensor>& tensors);

/// The tiles of all parameters (kernels::ParameterTile), at most 4096 elements each.
std::vector<kernels::ParameterTile> parameter_tiles(const ParameterStore& parameters, double weight_decay);

}  // namespace perceiver
