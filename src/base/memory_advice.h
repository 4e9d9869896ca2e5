// The advice at the end of out-of-memory messages.
#pragma once

namespace perceiver {

inline constexpr const char* kMemoryAdvice =
    "lower train.batch (or raise train.micro_batches), eval.batch, model.context_length, model.latents or "
    "model.layers, or set train.recompute: block";

}  // namespace perceiver
