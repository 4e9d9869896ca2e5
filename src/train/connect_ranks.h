// How the ranks of a run divide the work of a step.
#pragma once

#include "distributed/world.h"
#include "perceiver/config.h"
#include "perceiver/experimental/device_context.h"
#include "train/learner.h"

namespace perceiver {

/// Collective: connects the ranks of `world` on their devices, and the groups that share a context, and deals
/// the examples. For a null world, one process that does everything. Throws `user` if the ranks do not divide
/// batch or context. `config` must be the same on every rank.
LearnerRanks connect_ranks(World* world, const Config& config, DeviceContext& context);

}  // namespace perceiver
