// The element type a model computes in.
#pragma once

#include "perceiver/config.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {

/// The element type of `precision` on the context's device; also sets the context's precision of f32 matrix
/// products. `automatic` is bf16 (with f32 master weights) on a GPU and f32 on the CPU. Throws `user` for
/// what the device does not support: bf16 and tf32 on the CPU, f64 on a GPU.
DType apply_precision(Precision precision, DeviceContext& context);

}  // namespace perceiver
