// How generation goes on when the latents, or the context, are full (docs/generation.md).
#pragma once

namespace perceiver {

/// As long as the latents have room, each new token adds one and all of these are the same: exactly what a
/// pass over the whole sequence computes. Once they are full:
enum class GenerationPolicy {
  automatic,  ///< refill where the model allows a cache, else exact
  exact,      ///< the last M latents are computed anew for every token
  refill,     ///< the last R latents are computed anew, then up to M - R tokens are added to them
  stream,     ///< the oldest latent is dropped: cheapest, and unlike anything in training
};

/// When the sequence is as long as the context the model was trained with:
enum class ContextEnd {
  drop,  ///< the oldest tokens are forgotten
  stop,  ///< the sequence ends
};

}  // namespace perceiver
