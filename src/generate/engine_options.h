// Options of the generation engine: their defaults, what a model allows, and the memory they need.
#pragma once

#include <cstdint>
#include <string>

#include "model/model_file.h"
#include "model/perceiver_ar.h"
#include "perceiver/policy.h"

namespace perceiver {

/// 0 means the default, unless said otherwise.
struct EngineOptions {
  int64_t slots = 1;  ///< S, sequences generated together
  GenerationPolicy policy = GenerationPolicy::automatic;
  int64_t latents = 0;         ///< M; default: the model's
  int64_t refill = 0;          ///< R, 1 to M latents, whole positions; default: M / 2
  int64_t prompt_latents = 0;  ///< latents of the prompt's prefill, 1 to M; default: M
  /// Tokens of the longest prompt that decode steps read, which the other slots share, instead of a prefill
  /// of its own; -1: as suits the device.
  int64_t prompt_steps = -1;
  ContextEnd context_end = ContextEnd::drop;
  KvCache kv_cache = KvCache::automatic;  ///< resolved: not automatic, unless the model is in float64
  /// Keep the context as tokens (table) or as keys and values (direct); automatic: whichever is faster.
  ContextProjection context = ContextProjection::automatic;
  bool fused = true;  ///< run a decode step as one kernel where there is one
  /// Ids that stand for something, 0 to token_ids − 1; ids from there on are never generated. Default: all V.
  int64_t token_ids = 0;
  /// The ranks that share the context of each sequence; null: none. All of them make the same calls and
  /// choose the same tokens. A step is then several kernels, and sequences cannot be saved.
  Communicator* context_group = nullptr;
};

/// Changes defaults to suit the data a model was trained on: ids that its tokenizer does not have are not
/// generated. Models of the copy task predict only the second half of a sequence, so latents on the first
/// half were never trained: the prompt gets a single one. Throws `user` if the tokenizer cannot be read.
EngineOptions suited_options(EngineOptions options, const ModelMetadata& metadata);

/// The options with every default resolved. Throws `user` for what the model does not allow.
EngineOptions resolve_options(const PerceiverAR& model, EngineOptions options);

/// Throws `failure`, naming how many slots would fit, if there is too little memory. `options` are resolved.
void check_memory(const PerceiverAR& model, const EngineOptions& options);

/// Ranks that share the context of a sequence.
int64_t context_ranks(const EngineOptions& options);

/// Element type of the KV caches. `options` are resolved.
DType cache_type(const PerceiverAR& model, const EngineOptions& options);

/// Whether keys and values of earlier tokens can be cached.
bool keeps_cache(const ModelConfig& config);

/// Whether each latent has a learned query of its own.
bool has_query_per_latent(const ModelConfig& config);

}  // namespace perceiver
