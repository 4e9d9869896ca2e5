// Many requests through an engine: a queue that refills slots as sequences end.
#pragma once

#include <vector>

#include "generate/generation_queue.h"

namespace perceiver {

/// Continues all requests, as many at once as the engine has slots, which must be free. All are checked
/// before any work. What a request becomes depends neither on the others nor on the number of slots.
/// `tokenizer` makes the text, and stop strings need it; null: ids only. Throws `failure` if a sequence has
/// no token to choose, and whatever a callback throws; the engine is free again then.
std::vector<Completion> generate(Engine& engine, const std::vector<GenerationRequest>& requests,
                                 const TokenCallback& callback = {}, const TextTokenizer* tokenizer = nullptr,
                                 const FinishedCallback& finished = {});

}  // namespace perceiver
