#include "train/validation.h"

#include "distributed/together.h"
#include "eval/evaluator.h"

namespace perceiver {
namespace {

EvaluationOptions evaluation_options(const Config& config) {
  EvaluationOptions options;
  options.stride = config.eval.stride;
  options.latents = config.eval.latents;
  options.memory_length = config.eval.memory_length;
  options.batch = config.eval.batch > 0 ? config.eval.batch : config.train.batch;
  options.max_documents = config.eval.max_documents;
  return options;
}

std::vector<PositionLoss> by_position(const EvaluationResult& result) {
  std::vector<PositionLoss> losses;
  for (size_t b = 0; b < result.buckets.size(); ++b) {
    const PositionBucket& bucket = result.buckets[b];
    if (bucket.tokens > 0)
      losses.push_back(
          {position_bucket_starts[b], bucket.tokens, bucket.nats / static_cast<double>(bucket.tokens)});
  }
  return losses;
}

ValidationScore score_of(const EvaluationResult& result) {
  return {.loss = result.nats_per_token(),
          .bits_per_unit = result.units > 0 ? std::optional(result.bits_per_unit()) : std::nullopt,
          .unit = result.unit,
          .by_position = by_position(result)};
}

}  // namespace

Validate make_validation(const Config& config, std::function<bool()> cancelled) {
  const auto poll = [cancelled = std::move(cancelled)](int64_t, int64_t) {
    if (cancelled && cancelled()) throw Cancelled();
  };
  return [options = evaluation_options(config), poll](
             const PerceiverAR& model, const Dataset& data,
             const LearnerRanks& ranks) mutable -> std::optional<ValidationScore> {
    options.world = ranks.world;
    options.context_group = ranks.context_group.get();
    try {
      return score_of(evaluate(model, data, Split::validation, options, poll));
    } catch (const Cancelled&) {
      return std::nullopt;
    }
  };
}

}  // namespace perceiver
