// What messages about memory that does not suffice end with.
#pragma once

namespace perceiver {

inline constexpr const char* kMemoryAdvice =
    "lower train.batch (or raise train.micro_batches), eval.batch, model.context_length, model.latents or "
    "model.layers, or set train.recompute: block";

}  // namespace perceiver
