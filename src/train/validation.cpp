#include "train/validation.h"

#include "distributed/together.h"
#include "eval/evaluator.h"

namespace perceiver {
namespace {

EvaluationOptions evaluation_options(const Config& config) {
  EvaluationOptions options;
  options.stride = config.eval.stride;
  options.latents = config.eval.latents;
  options.batch = config.eval.batch > 0 ? config.eval.batch : config.train.batch;
  options.max_documents = config.eval.max_documents;
  return options;
}

ValidationScore score_of(const EvaluationResult& result) {
  return {result.nats_per_token(), result.units > 0 ? std::optional(result.bits_per_unit()) : std::nullopt,
          result.unit};
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
