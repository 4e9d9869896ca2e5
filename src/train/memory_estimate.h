// How much memory training needs, known before the first step.
#pragma once

#include <cstdint>

#include "perceiver/config.h"
#include "perceiver/experimental/dtype.h"
#include "perceiver/train_report.h"
#include "train/learner.h"

namespace perceiver {

/// `model` and `learner` are those that would train; they hold everything but the activations, which this
/// counts from the shapes: within 10% of what is then measured, over models of both types, recomputation and
/// both projections of the context.
MemoryEstimate estimate_memory(const Config& config, const PerceiverAR& model, const Learner& learner);

/// Bytes of this process in memory now, and the most so far; 0 where the system does not tell.
int64_t resident_bytes();
int64_t peak_resident_bytes();

}  // namespace perceiver
