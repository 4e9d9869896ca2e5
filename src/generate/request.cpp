#include "generate/request.h"

#include <cmath>

#include "base/check.h"
#include "generate/stop_strings.h"

namespace perceiver {
namespace {

void check_ids(const GenerationRequest& request, int64_t vocabulary) {
  for (const int32_t token : request.stop_tokens)
    if (token < 0 || token >= vocabulary)
      throw_user("stop token {} outside the vocabulary of {}", token, vocabulary);
  for (const auto& [token, bias] : request.token_biases) {
    if (token < 0 || token >= vocabulary)
      throw_user("logit bias of token {}, which is outside the vocabulary of {}", token, vocabulary);
    if (std::isnan(bias) || bias == INFINITY)
      throw_user("logit bias {} of token {}: must be a number or -infinity", bias, token);
  }
}

}  // namespace

Sequence sequence_of(const GenerationRequest& request, int64_t vocabulary) {
  Sequence sequence;
  sequence.tokens = request.prompt;
  sequence.positions = request.positions;
  sequence.settings = sampling_parameters(request.sampling, request.sequence, !request.ignore_eos);
  sequence.biases = request.biases;
  for (auto& row : sequence.biases) row.resize(static_cast<size_t>(vocabulary), 0.0f);
  if (request.token_biases.empty()) return sequence;
  if (sequence.biases.empty()) sequence.biases.emplace_back(static_cast<size_t>(vocabulary), 0.0f);
  for (const auto& [token, bias] : request.token_biases)
    for (auto& row : sequence.biases) row[static_cast<size_t>(token)] += bias;
  return sequence;
}

void check_request(const PerceiverAR& model, const EngineOptions& options, const GenerationRequest& request) {
  check_sampling(request.sampling);
  if (request.tokens < 0) throw_user("{} tokens requested; must be 0 or more", request.tokens);
  check_stop_strings(request.stop);
  const int64_t vocabulary = model.config().vocabulary;
  check_ids(request, vocabulary);
  for (const auto& row : request.biases)
    if (static_cast<int64_t>(row.size()) > vocabulary)
      throw_user("{} logit biases for a vocabulary of {}", row.size(), vocabulary);
  check_sequence(model, options, sequence_of(request, vocabulary));
}

}  // namespace perceiver
