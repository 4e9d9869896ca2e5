// Likelihood of a split: every token of every document scored exactly once (docs/model.md section 5).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

#include "data/batches/windows.h"
#include "distributed/world.h"
#include "model/perceiver_ar.h"

namespace perceiver {

/// 0 stands for the named default.
struct EvaluationOptions {
  int64_t stride = 0;         ///< S, targets per window; 0 = latents
  int64_t latents = 0;        ///< M; 0 = the model's
  int64_t batch = 1;          ///< windows at once
  int64_t max_documents = 0;  ///< only the first this many; 0 = all (64 for data generated on the fly)
  /// The ranks that share the context of each window, all of which make the same call and get the same
  /// result; null: none.
  Communicator* context_group = nullptr;
  /// Called for every target that this rank scores: the document, the target's index in it (SOS has index 0),
  /// and its negative log-likelihood in nats.
  std::function<void(int64_t document, int64_t place, double nats)> target = {};
  /// The ranks that share the windows: all, in groups of those that share the context; null: none.
  World* world = nullptr;
  /// Of a Transformer-XL, whose segments have `latents` tokens: rows of memory; 0 = the model's.
  int64_t memory_length = 0;
};

struct PositionBucket {
  double nats = 0;
  int64_t tokens = 0;
};

struct EvaluationResult {
  int64_t documents = 0;
  int64_t tokens = 0;  ///< targets scored
  int64_t units = 0;   ///< bytes (or the data set's unit) that the targets cover
  int64_t words = 0;   ///< separated by white space; 0 if the data are not text
  std::string unit;
  double nats = 0;  ///< total
  int64_t correct = 0;
  double seconds = 0;
  int64_t latents = 0, stride = 0;
  std::array<PositionBucket, position_bucket_starts.size()> buckets;  ///< by position in the document

  double nats_per_token() const { return nats / static_cast<double>(tokens); }
  double bits_per_token() const;
  double bits_per_unit() const;
  double nats_per_unit() const { return nats / static_cast<double>(units); }
  double perplexity() const;       ///< per token
  double word_perplexity() const;  ///< e^(nats per word), including the end of the text; only with words
  double accuracy() const { return static_cast<double>(correct) / static_cast<double>(tokens); }
  double tokens_per_second() const { return static_cast<double>(tokens) / seconds; }
};

/// Throws `user` for a split without documents, data that do not fit the model, or contradictory options.
/// `progress` (optional) is called after each batch with the scored and the total number of tokens, those of
/// this rank alone. It may throw `Cancelled` (distributed/together.h) or anything else to give up.
///
/// Over several ranks this is collective: batches of windows are dealt to them in turn, nobody waits before
/// its own are done, and every rank gets the same result. It does not depend on the number of ranks except by
/// the rounding inside a window, because `batch` is lowered where that gives all ranks the same work. What is
/// thrown on one rank ends the evaluation on all, as `together` says.
EvaluationResult evaluate(const PerceiverAR& model, const Dataset& data, Split split,
                          const EvaluationOptions& options,
                          const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace perceiver
