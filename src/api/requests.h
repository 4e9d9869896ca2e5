// The public options of generation as the engine takes them.
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "generate/engine_options.h"
#include "generate/request.h"
#include "model/model_file.h"
#include "perceiver/batch_generator.h"

namespace perceiver {

/// The likeliest ids of tokens that were started and have not arrived, oldest first.
using PendingAlternatives = std::deque<std::vector<Alternative>>;

/// Throws `user` for masks of prompt and options that cannot be combined.
GenerationRequest request_of(const TokenPrompt& prompt, const GenerateOptions& options);

SamplingOptions sampling_options(const GenerateOptions& options);

/// ln Σ exp(logit): a logit less this is its log-probability, nats.
double log_normalizer(std::span<const double> logits);

/// What the options want to see of the logits; empty if nothing. Alternatives are appended to `pending`.
LogitsObserver observer_of(const GenerateOptions& options, std::shared_ptr<PendingAlternatives> pending);

/// The oldest of `pending`, which is removed; empty if there is none.
std::vector<Alternative> next_alternatives(PendingAlternatives& pending);

EngineOptions engine_options(const BatchOptions& options, const ModelMetadata& metadata);
BatchOptions batch_options(const GenerateOptions& options);

}  // namespace perceiver
