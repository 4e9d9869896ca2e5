// What generation does when the latents or the context are full (docs/generation.md), and how it ends.
#pragma once

namespace perceiver {

/// While there is room, each new token adds a latent, and all policies compute exactly what a pass over the
/// whole sequence would. Once the latents are full:
enum class GenerationPolicy {
  automatic,  ///< refill if the model allows a cache, else exact
  exact,      ///< recompute the last M latents for every token
  refill,     ///< recompute the last R latents, then add up to M - R tokens to them
  stream,     ///< drop the oldest latent: cheapest, but unlike anything in training
};

/// When the sequence reaches the context length the model was trained with:
enum class ContextEnd {
  drop,  ///< forget the oldest tokens
  stop,  ///< end the sequence
};

/// How the keys and values of earlier tokens are stored.
enum class KvCache {
  automatic,  ///< in the type that the model computes in
  float32,
  bfloat16,  ///< half of float32's bytes, which a step reads
  fp8,       ///< on a GPU: a byte each, e4m3, up to 448
};

/// Why a sequence ended.
enum class FinishReason {
  length,       ///< as many tokens as requested
  end_token,    ///< EOS or one of the stop tokens
  stop_string,  ///< the text came to a stop string
  context,      ///< the context or the given positions are used up
  cancelled,    ///< by the caller
  callback,     ///< the caller's callback returned false
  failed,       ///< no token could be chosen: the logits were not finite, or masks forbade every id
};

}  // namespace perceiver
