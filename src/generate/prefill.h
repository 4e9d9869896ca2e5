// Prefill: a pass over a whole sequence that fills its slot's caches and ends with its logits.
#pragma once

#include "generate/slots.h"

namespace perceiver {

/// Whether the next token needs a prefill, rather than one latent on top of the caches: at the start of all
/// but short prompts, and whenever the policy recomputes latents (docs/generation.md).
bool needs_prefill(const Slots& slots, const Slot& slot);

/// Prefills the slot with its sequence, up to its last token. No tokens may be in flight.
void prefill(Slots& slots, int64_t number);

}  // namespace perceiver
