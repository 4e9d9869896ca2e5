// POST /v1/completions, as OpenAI's clients speak it.
#pragma once

#include <functional>

#include "serve/completion_request.h"
#include "serve/reply.h"
#include "serve/served_model.h"

namespace perceiver::serve {

/// Answers at once or with a stream of events. `gone` tells whether the client has left. Throws HttpError and
/// perceiver::Error.
Reply complete(ServedModel& model, const CompletionRequest& request, std::function<bool()> gone,
               const Limits& limits);

/// A number for an answer, e.g. "cmpl-00000000000001a3": different for each of a server's.
std::string new_id(const char* prefix);

/// What OpenAI's interface calls the end of a sequence: "stop", or "length".
const char* finish_name(std::optional<FinishReason> reason);

}  // namespace perceiver::serve
