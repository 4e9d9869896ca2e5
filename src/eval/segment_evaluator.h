// Likelihood by a model that remembers earlier segments (Transformer-XL).
#pragma once

#include "eval/evaluator.h"

namespace perceiver {

/// `evaluate` for such a model: segments of options.latents tokens (0: model.context_length) with a memory of
/// options.memory_length (0: the model's); memories are empty at the start of a document. Ranks share the
/// documents.
EvaluationResult evaluate_segments(const PerceiverAR& model, const Dataset& data, Split split,
                                   const EvaluationOptions& options,
                                   const std::function<void(int64_t, int64_t)>& progress);

}  // namespace perceiver
