// Whether a model can take a batch.
#pragma once

#include "model/batch.h"
#include "perceiver/config.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {

/// Throws `user` for sizes that disagree, ids outside the vocabulary, PAD in the wrong place, and positions
/// outside their tables, naming example and column.
void check_batch(DeviceContext& context, const ModelConfig& config, const Batch& batch);

}  // namespace perceiver
