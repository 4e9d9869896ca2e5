// What a model says about data that it is given.
#include <algorithm>

#include "api/document_list.h"
#include "api/model_state.h"
#include "base/check.h"
#include "eval/evaluator.h"
#include "perceiver/experimental/host_values.h"

namespace perceiver {
namespace {

/// The last inputs of the document, a row of one example.
Batch last_row(const DocumentList& document, const ModelConfig& config) {
  const int64_t length = document.document_length(Split::test, 0) - 1;  // without EOS
  const int64_t columns = std::min(length, config.context_length);
  Batch batch;
  batch.resize(1, columns, document.axes());
  batch.lengths[0] = static_cast<int32_t>(columns);
  document.read(Split::test, 0, length - columns, columns, batch.tokens.data());
  document.positions(Split::test, 0, length - columns, columns, batch.positions.data());
  return batch;
}

}  // namespace

Score Model::score(const Content& content, const ScoreOptions& options) const {
  const TokenSequence document = state_->tokenizer.encode(content);
  return score({&document, 1}, options)[0];
}

std::vector<Score> Model::score(std::span<const TokenSequence> documents, const ScoreOptions& options) const {
  if (options.batch < 1) throw_user("batch {} of windows; must be at least 1", options.batch);
  std::vector<Score> scores(documents.size());
  if (documents.empty()) return scores;
  const DocumentList list(state_->modality(), documents);
  EvaluationOptions evaluation{.stride = options.stride, .latents = options.latents, .batch = options.batch};
  evaluation.target = [&](int64_t document, int64_t, double nats) {
    Score& score = scores[static_cast<size_t>(document)];
    score.nats += nats;
    score.log_probabilities.push_back(static_cast<float>(-nats));
  };
  evaluate(*state_->loaded.model, list, Split::test, evaluation);
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i].tokens = static_cast<int64_t>(scores[i].log_probabilities.size());
    scores[i].bytes = list.scored_units(Split::test, static_cast<int64_t>(i));
  }
  return scores;
}

Embedding Model::embed(const Content& content) const {
  const TokenSequence document = state_->tokenizer.encode(content);
  const PerceiverAR& model = *state_->loaded.model;
  const ModelConfig& config = model.config();
  const DocumentList list(state_->modality(), {&document, 1});
  const Batch row = last_row(list, config);
  PassOptions options;
  options.latents = config.decoder_only() ? config.context_length : config.latents;
  const ModelInputs inputs = model.prepare(row, options);
  const std::vector<double> values = host_doubles(model.latents(inputs));
  Embedding embedding;
  embedding.channels = static_cast<int64_t>(values.size()) / inputs.latent_positions;
  // Latents before the start of a short document stand for nothing.
  embedding.latents =
      std::count_if(inputs.steps.begin(), inputs.steps.end(), [](int32_t s) { return s >= 0; });
  const auto count = static_cast<int64_t>(embedding.latents * embedding.channels);
  embedding.values.assign(values.end() - count, values.end());
  return embedding;
}

}  // namespace perceiver
