// How much memory training needs, known before the first step.
#pragma once

#include <cstdint>

#include "perceiver/config.h"
#include "perceiver/experimental/dtype.h"
#include "train/learner.h"

namespace perceiver {

/// Bytes on the device that trains: what tensors hold at the worst moment of a step. Not counted: the program
/// itself and its libraries, the data, and on a GPU the driver's context.
struct MemoryEstimate {
  int64_t weights = 0;  ///< with the bf16 copy that a bf16 model reads
  int64_t gradients = 0;
  int64_t optimizer = 0;
  int64_t average = 0;      ///< moving average of the weights
  int64_t activations = 0;  ///< of a micro-batch of whole rows: kept for backward, and its working memory

  int64_t total() const { return weights + gradients + optimizer + average + activations; }
};

/// `model` and `learner` are those that would train; they hold everything but the activations, which this
/// counts from the shapes: within 10% of what is then measured, over models of both types, recomputation and
/// both projections of the context.
MemoryEstimate estimate_memory(const Config& config, const PerceiverAR& model, const Learner& learner);

/// Bytes of this process in memory now, and the most so far; 0 where the system does not tell.
int64_t resident_bytes();
int64_t peak_resident_bytes();

}  // namespace perceiver
