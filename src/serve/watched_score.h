// Scoring that ends with the connection it was asked for by.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "serve/served_model.h"

namespace perceiver::serve {

/// The scores of the documents; a model scores for one request at a time, the others wait. `gone` tells
/// whether the client has left, and is called by two threads. Throws HttpError 503 soon after it has, 504
/// once the `seconds` are over, and perceiver::Error as Model::score.
std::vector<Score> score_watched(ServedModel& model, std::span<const TokenSequence> documents,
                                 const ScoreOptions& options, const std::function<bool()>& gone,
                                 int64_t seconds);

}  // namespace perceiver::serve
