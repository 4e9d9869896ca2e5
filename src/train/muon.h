// Muon for the matrices of layers, AdamW for the rest (kernels/muon.h).
#pragma once

#include <memory>

#include "distributed/communicator.h"
#include "train/optimizer.h"

namespace perceiver {

/// Muon for the matrices whose use is ParameterUse::layer. It updates all parameters as one slice, whose
/// master weights and gradients `parameters` holds. `ranks`, if not null, all have the same gradients: each
/// keeps the momentum of a share of the matrices, computes their updates and gives them to the others.
std::unique_ptr<Optimizer> make_muon(const OptimizerConfig& config, DeviceContext& context,
                                     ParameterStore& parameters,
                                     std::shared_ptr<Communicator> ranks = nullptr);

}  // namespace perceiver
