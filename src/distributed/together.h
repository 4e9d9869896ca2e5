// Work that every rank does its part of, and that ends for all if it ends early for one.
#pragma once

#include <functional>
#include <string_view>

#include "distributed/world.h"

namespace perceiver {

/// Thrown by a callback to give up work without an error.
struct Cancelled {};

/// Collective: runs `work` on every rank and waits for all. If it throws on some rank, this throws on every
/// rank: the first rank's Error, as a SharedError "rank 2: …" (without the number if all ranks have the
/// same), or `Cancelled` where no rank has an error but one has cancelled. A rank that threw `Cancelled`, or
/// something that is no Error, gets that back. `work` must not wait for other ranks, unless they are sure to
/// arrive; if it may take minutes longer on one rank than on another, it calls World::still_working. A null
/// `world` is one rank, whose exceptions pass through. `what`: see World.
void together(World* world, std::string_view what, const std::function<void()>& work);

}  // namespace perceiver
