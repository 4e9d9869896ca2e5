// Muon for the matrices of layers, AdamW for the rest (kernels/muon.h).
#pragma once

#include <memory>

#include "train/optimizer.h"

namespace perceiver {

/// Muon for the matrices whose use is ParameterUse::layer. It updates all parameters as one slice, whose
/// master weights and gradients `parameters` holds.
std::unique_ptr<Optimizer> make_muon(const OptimizerConfig& config, DeviceContext& context,
                                     ParameterStore& parameters);

}  // namespace perceiver
