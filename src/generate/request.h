// A request to continue a prompt.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "generate/sampler.h"
#include "generate/sequence.h"

namespace perceiver {

/// Sees the sequence so far and the logits [V] of the next token before it is chosen, and may change them
/// (SlotWatch).
using LogitsObserver = std::function<void(std::span<const int32_t> tokens, std::span<double> logits)>;

struct GenerationRequest {
  std::vector<int32_t> prompt;     ///< ids, SOS first
  std::vector<int32_t> positions;  ///< as in Sequence
  /// Added to the logits, up to V values each; the t-th new token uses row t % (number of rows).
  std::vector<std::vector<float>> biases;
  std::vector<std::pair<int32_t, float>> token_biases;  ///< added to single tokens' logits in every step
  int64_t tokens = 100;                                 ///< at most this many new ones
  std::vector<int32_t> stop_tokens;                     ///< end the sequence, as EOS does
  std::vector<std::string> stop;                        ///< strings that end the text, which excludes them
  /// Bytes that the text begins with, e.g. the prompt's. Stop strings are not searched in them; a character
  /// may start in them and end in the new bytes.
  std::string echo;
  SamplingOptions sampling;
  uint32_t sequence = 0;    ///< distinguishes sequences of one seed: another number, another text
  bool ignore_eos = false;  ///< never choose EOS
  LogitsObserver logits;
};

/// The request as the engine takes it; the ids of its biases must be in the vocabulary.
Sequence sequence_of(const GenerationRequest& request, int64_t vocabulary);

/// Throws `user` for a request that an engine of this model and these (resolved) options cannot meet.
void check_request(const PerceiverAR& model, const EngineOptions& options, const GenerationRequest& request);

}  // namespace perceiver
