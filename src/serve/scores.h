// POST /v1/score: how likely a model finds documents.
#pragma once

#include <functional>
#include <vector>

#include "serve/reply.h"
#include "serve/served_model.h"

namespace perceiver::serve {

struct ScoreRequest {
  std::vector<TokenSequence> documents;
  ScoreOptions options;
};

/// Throws HttpError 400 for anything that cannot be met, with one sentence.
ScoreRequest parse_score(const nlohmann::json& body, const Tokenizer& tokenizer, const Limits& limits);

/// Log-probabilities of all tokens, their sum, and bits per unit. Throws as score_watched.
Reply score(ServedModel& model, const ScoreRequest& request, const std::function<bool()>& gone,
            const Limits& limits);

}  // namespace perceiver::serve
