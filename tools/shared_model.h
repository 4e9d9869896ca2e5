// The same model on every rank of a command.
#pragma once

#include "distributed/world.h"
#include "tools/commands.h"

namespace perceiver::program {

/// Collective: open_checkpoint with the model file that rank 0 finds, since a run that is training may write
/// another at any moment. Throws `user` if the ranks do not read the same. A null `world` is one rank.
LoadedModel open_shared_checkpoint(const std::string& path, const Globals& globals, World* world,
                                   Weights weights = Weights::automatic);

}  // namespace perceiver::program
