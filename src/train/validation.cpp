#include "train/validation.h"

#include <algorithm>

#include "distributed/together.h"
#include "eval/evaluator.h"

namespace perceiver {
namespace {

/// By default as many as a rank trains on at once, so that validation needs no more memory than training. Of
/// ranks with shares of different sizes the smallest: windows are dealt in batches, which are the same for
/// all.
int64_t windows_at_once(const Config& config, const LearnerRanks& ranks) {
  if (config.eval.batch > 0) return config.eval.batch;
  const int64_t together = config.train.batch / config.train.micro_batches;
  if (!ranks.all) return together;
  const int64_t shared_by = ranks.context_group ? ranks.context_group->size() : 1;
  return std::max<int64_t>(1, together * shared_by / ranks.all->size());
}

EvaluationOptions evaluation_options(const Config& config, const LearnerRanks& ranks) {
  EvaluationOptions options;
  options.stride = config.eval.stride;
  options.latents = config.eval.latents;
  options.memory_length = config.eval.memory_length;
  options.batch = windows_at_once(config, ranks);
  options.max_documents = config.eval.max_documents;
  options.world = ranks.world;
  options.context_group = ranks.context_group.get();
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
  return [config, poll](const PerceiverAR& model, const Dataset& data,
                        const LearnerRanks& ranks) -> std::optional<ValidationScore> {
    try {
      return score_of(evaluate(model, data, Split::validation, evaluation_options(config, ranks), poll));
    } catch (const Cancelled&) {
      return std::nullopt;
    }
  };
}

}  // namespace perceiver
