// Many sequences through an engine: a queue from which slots are refilled as sequences end.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "generate/engine.h"
#include "generate/sampler.h"

namespace perceiver {

struct GenerationRequest {
  std::vector<int32_t> prompt;     ///< ids, SOS first
  std::vector<int32_t> positions;  ///< as in Sequence
  /// Added to the logits, V each or fewer; row t % (number of rows) for the t-th new token.
  std::vector<std::vector<float>> biases;
  std::vector<std::pair<int32_t, float>> token_biases;  ///< added to single tokens' logits, in every step
  int64_t tokens = 100;                                 ///< at most so many new ones
  std::vector<int32_t> stop_tokens;                     ///< end the sequence, as EOS does
  SamplingOptions sampling;
  uint32_t sequence = 0;    ///< number among those of one seed: another number, another text
  bool ignore_eos = false;  ///< never choose EOS
};

/// Why a sequence ended.
enum class Ending { tokens, end_token, caller, context };

struct Continuation {
  std::vector<int32_t> tokens;  ///< new ids, that which ended it included
  double log_probability = 0;   ///< nats, sum over the new tokens
  Ending ending = Ending::tokens;
};

/// A new token of request `request`; false ends its sequence.
using TokenCallback = std::function<bool(int64_t request, const ChosenToken& token)>;

/// Options with defaults that suit the data a model was trained on. Models of the copy task predict the
/// second half of a sequence alone, so latents on the first one were never trained: the prompt gets a single
/// one.
EngineOptions suited_options(EngineOptions options, const std::string& modality);

/// The request as the engine takes it; the ids of its biases must be in the vocabulary.
Sequence sequence_of(const GenerationRequest& request, int64_t vocabulary);

/// Throws `user` for a request that cannot be met.
void check_request(const Engine& engine, const GenerationRequest& request);

/// Continues all requests, as many at once as the engine has slots, which must be free. All are checked
/// before any work. What becomes of a request depends neither on the others nor on the number of slots.
std::vector<Continuation> generate(Engine& engine, const std::vector<GenerationRequest>& requests,
                                   const TokenCallback& callback = {});

}  // namespace perceiver
