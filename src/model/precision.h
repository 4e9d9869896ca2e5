// The element type a model computes in.
#pragma once

#include <string>

#include "perceiver/config.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {

/// The element type of `precision` on the context's device; also sets the context's precision of f32 matrix
/// products. `automatic` is bf16 (with f32 master weights) on a GPU and f32 on the CPU; fp8 is bf16, too: a
/// learner adds the rest. Throws `user` for what the device does not support: bf16, tf32 and fp8 on the CPU,
/// f64 on a GPU, fp8 on one that is too old.
DType apply_precision(Precision precision, DeviceContext& context);

/// What a record of a run says: the type, or "fp8".
std::string precision_name(Precision precision, DType type);

}  // namespace perceiver
