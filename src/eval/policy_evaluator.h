// Likelihood as generation sees it: every token is scored by the logits that an engine would have chosen it
// from, with whatever its policy left in the caches. Beside `evaluate`, which is exact, it tells what a
// policy costs.
#pragma once

#include <functional>

#include "eval/evaluator.h"
#include "generate/engine.h"

namespace perceiver {

/// 0: no limit.
struct PolicyEvaluationOptions {
  int64_t max_documents = 0;  ///< only the first so many (64 of data made on the fly)
  int64_t max_tokens = 0;     ///< targets of a document
};

/// Scores the documents of a split, as many at once as the engine has slots. `stride` of the result is 1;
/// units are those of whole documents, or where max_tokens cuts one, in proportion to its targets. Throws
/// `user` as `evaluate` does.
EvaluationResult evaluate_policy(Engine& engine, const Dataset& data, Split split,
                                 const PolicyEvaluationOptions& options,
                                 const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace perceiver
