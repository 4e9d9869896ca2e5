// Many requests through an engine: a queue that refills slots as sequences end.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "generate/completion.h"
#include "generate/engine.h"
#include "generate/request.h"

namespace perceiver {

/// A new token of request `request`, and the text that it makes certain; false cancels the request.
using TokenCallback = std::function<bool(int64_t request, const ChosenToken& token, const std::string& text)>;

/// A request has ended; called once for each, in the order in which they end.
using FinishedCallback = std::function<void(int64_t request, const Completion& completion)>;

/// Continues all requests, as many at once as the engine has slots, which must be free. All are checked
/// before any work. What a request becomes depends neither on the others nor on the number of slots.
/// `tokenizer` makes the text, and stop strings need it; null: ids only. Throws `failure` if a sequence has
/// no token to choose, and whatever a callback throws; the engine is free again then.
std::vector<Completion> generate(Engine& engine, const std::vector<GenerationRequest>& requests,
                                 const TokenCallback& callback = {}, const Tokenizer* tokenizer = nullptr,
                                 const FinishedCallback& finished = {});

}  // namespace perceiver
