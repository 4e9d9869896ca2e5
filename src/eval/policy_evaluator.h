// Likelihood under a generation policy: every token is scored by the logits that an engine would have chosen
// it from, given what its policy left in the caches. Compared with `evaluate`, which is exact, this measures
// what a policy costs in quality.
#pragma once

#include <functional>

#include "eval/evaluator.h"
#include "generate/engine.h"

namespace perceiver {

/// 0: no limit.
struct PolicyEvaluationOptions {
  int64_t max_documents = 0;  ///< only the first this many (64 for data generated on the fly)
  int64_t max_tokens = 0;     ///< targets per document
  World* world = nullptr;     ///< the ranks that share the documents; null = one
};

/// Scores the documents of a split, as many at once as the engine has slots. The result's `stride` is 1; its
/// units are those of whole documents, or in proportion to the targets of documents cut by max_tokens. Throws
/// `user` as `evaluate` does. Over several ranks it is collective like `evaluate`: documents are dealt so
/// that all ranks score about as many targets, and the result does not depend on their number.
EvaluationResult evaluate_policy(Engine& engine, const Dataset& data, Split split,
                                 const PolicyEvaluationOptions& options,
                                 const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace perceiver
