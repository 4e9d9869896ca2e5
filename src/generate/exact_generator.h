// Generation by recomputation: for every token the last M latents are computed anew from the whole context
// (docs/model.md section 6, policy `exact`).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "generate/sampler.h"
#include "model/perceiver_ar.h"

namespace perceiver {

struct GenerationRequest {
  std::vector<int32_t> prompt;  ///< ids, SOS first
  /// Positions of the prompt and of the tokens to come, [any number, A]; empty: 1, 2, … (one axis alone).
  std::vector<int32_t> positions;
  /// Added to the logits, V each or fewer; row t % (number of rows) for the t-th new token.
  std::vector<std::vector<float>> biases;
  int64_t tokens = 100;         ///< at most so many new ones
  int64_t count = 1;            ///< independent continuations
  SamplingOptions sampling;
  bool ignore_eos = false;  ///< never end early
};

/// A new token of continuation `sequence`; false ends that continuation.
using TokenCallback = std::function<bool(int64_t sequence, const SampledToken& token)>;

/// Throws `user` for an impossible request before any work. A context that outgrows the model's loses its
/// oldest tokens; positions then count from the row's start, as in training crops. What one continuation
/// becomes does not depend on `count`. Returns each continuation's new ids, EOS included where it ended one.
std::vector<std::vector<int32_t>> generate_exactly(const PerceiverAR& model, const GenerationRequest& request,
                                                   const TokenCallback& callback);

}  // namespace perceiver
