#include "eval/evaluator.h"

#include <chrono>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "core/host_values.h"

namespace perceiver {
namespace {

/// Adds the scores of one batch of windows.
void add_batch(const WindowBatch& windows, const ops::LossResult& loss, int64_t positions,
               EvaluationResult& result) {
  const std::vector<double> nll = host_doubles(loss.nll);
  const std::vector<uint8_t> correct = loss.correct.to_host<uint8_t>();
  for (int64_t b = 0; b < windows.batch.size; ++b) {
    const int64_t scored = windows.scored[static_cast<size_t>(b)];
    for (int64_t i = 0; i < scored; ++i) {
      const auto row = static_cast<size_t>((b + 1) * positions - scored + i);
      PositionBucket& bucket = result.buckets[static_cast<size_t>(
          position_bucket(windows.first_targets[static_cast<size_t>(b)] + i))];
      bucket.nats += nll[row];
      ++bucket.tokens;
      result.nats += nll[row];
      result.correct += correct[row];
      ++result.tokens;
    }
  }
}

}  // namespace

double EvaluationResult::bits_per_token() const {
  return nats_per_token() / std::numbers::ln2;
}
double EvaluationResult::bits_per_unit() const {
  return nats_per_unit() / std::numbers::ln2;
}
double EvaluationResult::perplexity() const {
  return std::exp(nats_per_token());
}
double EvaluationResult::word_perplexity() const {
  return std::exp(nats / static_cast<double>(words));
}

EvaluationResult evaluate(const PerceiverAR& model, const Dataset& data, Split split,
                          const EvaluationOptions& options,
                          const std::function<void(int64_t, int64_t)>& progress) {
  const ModelConfig& config = model.config();
  check_fits(data, config);
  if (options.latents < 0 || options.latents > config.context_length)
    throw_user("{} latents requested; must be 1 to model.context_length {}", options.latents,
               config.context_length);
  const bool transformer = config.type == ModelType::transformer;
  const int64_t latents = transformer           ? config.context_length
                          : options.latents > 0 ? options.latents
                                                : config.latents;
  if (latents % config.latents_per_position != 0)
    throw_user("{} latents are not a multiple of model.latents_per_position {}", latents,
               config.latents_per_position);
  const int64_t positions = latents / config.latents_per_position;
  EvaluationResult result;
  result.latents = latents;
  result.stride = options.stride > 0 ? options.stride : positions;
  result.unit = data.unit();
  Windows windows(data, split,
                  {config.context_length, positions, options.stride, options.batch, options.max_documents});
  result.documents = windows.documents();
  result.units = windows.units();
  result.words = windows.words();

  const auto start = std::chrono::steady_clock::now();
  WindowBatch batch;
  while (windows.next(batch)) {
    PassOptions pass;
    pass.latents = latents;
    pass.context_group = options.context_group;
    const ModelInputs inputs = model.prepare(batch.batch, pass);
    Tape tape(model.context(), false);
    add_batch(batch, model.loss(tape, inputs, {}, Recompute::none), inputs.latent_positions, result);
    if (progress) progress(result.tokens, windows.targets());
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  PERCEIVER_ASSERT(result.tokens == windows.targets() && result.tokens > 0);
  return result;
}

}  // namespace perceiver
