// Keeps a growing sequence within the rotary tables.
#pragma once

#include "generate/slots.h"

namespace perceiver {

/// Whether the slot's next token comes too close to the end of the rotary tables.
bool must_rebase_positions(const Slots& slots, const Slot& slot);

/// Moves a slot's positions down, so that its oldest token is at position 1, and rotates its cached keys back
/// to match. Rotations are relative, so attention stays the same. No tokens may be in flight.
void rebase_positions(Slots& slots, int64_t number);

}  // namespace perceiver
