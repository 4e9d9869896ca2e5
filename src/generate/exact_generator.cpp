#include "generate/exact_generator.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "core/host_values.h"
#include "data/tokenizer.h"

namespace perceiver {
namespace {

void check_request(const PerceiverAR& model, const GenerationRequest& request) {
  check_sampling(request.sampling);
  if (request.tokens < 0) throw_user("{} tokens asked for; 0 or more are possible", request.tokens);
  if (request.count < 1) throw_user("{} continuations asked for; 1 or more are possible", request.count);
  if (request.prompt.empty()) throw_user("the prompt is empty; it starts with SOS at the least");
  const int64_t vocabulary = model.config().vocabulary;
  for (size_t i = 0; i < request.prompt.size(); ++i)
    if (request.prompt[i] <= 0 || request.prompt[i] >= vocabulary)
      throw_user("prompt token {}: id {} outside 1 to {}", i, request.prompt[i], vocabulary - 1);
  const int64_t axes = model.config().axes();
  const auto known = static_cast<int64_t>(request.positions.size()) / axes;
  const int64_t length = static_cast<int64_t>(request.prompt.size()) + request.tokens - 1;
  if (request.positions.empty() && axes != 1)
    throw_user("this model's positions have {} axes; they must be given", axes);
  if (!request.positions.empty() && (known < length || length > model.config().context_length))
    throw_user("{} tokens asked for, but there are positions for {} and a context of {}", request.tokens,
               known - static_cast<int64_t>(request.prompt.size()) + 1, model.config().context_length);
}

/// Latents of a pass over rows of `length` tokens: as in training, but none that would be invalid.
int64_t latents_for(const ModelConfig& config, int64_t length) {
  const bool own_rows = config.query_style == QueryStyle::learned && !config.shared_learned_query;
  if (own_rows) return config.latents;
  return std::min(config.latents, length * config.latents_per_position);
}

/// The last tokens of each sequence, as one batch.
Batch last_tokens(const std::vector<const std::vector<int32_t>*>& sequences, const ModelConfig& config,
                  const std::vector<int32_t>& positions) {
  Batch batch;
  const auto length = std::min(config.context_length, static_cast<int64_t>(sequences[0]->size()));
  batch.resize(static_cast<int64_t>(sequences.size()), length, config.axes());
  for (size_t b = 0; b < sequences.size(); ++b) {
    batch.lengths[b] = static_cast<int32_t>(length);
    const auto row = static_cast<int64_t>(b) * length;
    std::copy(sequences[b]->end() - length, sequences[b]->end(), batch.tokens.begin() + row);
    const auto first = batch.positions.begin() + row * batch.axes;
    if (positions.empty()) {
      std::iota(first, first + length, 1);
    } else {
      std::copy_n(positions.begin(), length * batch.axes, first);
    }
  }
  return batch;
}

/// Logits after the last token of row b.
std::vector<double> last_logits(const Tensor& logits, int64_t b) {
  const int64_t positions = logits.shape()[1], vocabulary = logits.shape()[2];
  return host_doubles(logits.view(((b + 1) * positions - 1) * vocabulary, {vocabulary}));
}

void add_bias(const GenerationRequest& request, int64_t step, std::vector<double>& scores) {
  if (request.biases.empty()) return;
  const std::vector<float>& row = request.biases[static_cast<size_t>(step) % request.biases.size()];
  for (size_t i = 0; i < std::min(row.size(), scores.size()); ++i) scores[i] += row[i];
}

}  // namespace

std::vector<std::vector<int32_t>> generate_exactly(const PerceiverAR& model, const GenerationRequest& request,
                                                   const TokenCallback& callback) {
  check_request(model, request);
  const auto count = static_cast<size_t>(request.count);
  std::vector<std::vector<int32_t>> sequences(count, request.prompt);
  std::vector<int64_t> active(count);
  for (size_t i = 0; i < count; ++i) active[i] = static_cast<int64_t>(i);
  for (int64_t step = 0; step < request.tokens && !active.empty(); ++step) {
    std::vector<const std::vector<int32_t>*> rows;
    for (const int64_t sequence : active) rows.push_back(&sequences[static_cast<size_t>(sequence)]);
    const Batch batch = last_tokens(rows, model.config(), request.positions);
    PassOptions pass;
    pass.latents = latents_for(model.config(), batch.length);
    const Tensor logits = model.logits(model.prepare(batch, pass));
    std::vector<int64_t> going_on;
    for (size_t b = 0; b < active.size(); ++b) {
      std::vector<double> scores = last_logits(logits, static_cast<int64_t>(b));
      add_bias(request, step, scores);
      const SampledToken token =
          sample_token(scores, request.sampling, static_cast<uint64_t>(active[b]),
                       static_cast<uint64_t>(step), !request.ignore_eos);
      sequences[static_cast<size_t>(active[b])].push_back(token.token);
      const bool more = !callback || callback(active[b], token);
      if (more && token.token != eos_token) going_on.push_back(active[b]);
    }
    active = going_on;
  }
  for (auto& sequence : sequences)
    sequence.erase(sequence.begin(), sequence.begin() + static_cast<int64_t>(request.prompt.size()));
  return sequences;
}

}  // namespace perceiver
