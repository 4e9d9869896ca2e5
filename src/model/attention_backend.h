// Whether model.attention can compute what a training run asks of it; what cannot be known from the
// configuration alone (config/validate.h).
#pragma once

#include "model/batch.h"
#include "perceiver/config.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {

/// Throws `user`, with the reason, where model.attention does not exist on the context's device, or does not
/// take elements of `type` or the widths of the model's heads.
void check_attention_backend(const ModelConfig& config, const DeviceContext& context, DType type);

/// Whether every example of the batch fills its row and has a token for each of `latents` latents of its own
/// position: then query i of M sees the first N - M + i + 1 of N keys.
bool fills_rows(const Batch& batch, int64_t latents);

/// Throws `user` for a batch whose masks model.attention does not take: cudnn needs examples that fill their
/// rows.
void check_attention_batch(const ModelConfig& config, const Batch& batch, int64_t latents);

}  // namespace perceiver
