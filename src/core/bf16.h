// Rounding to bf16 on the host.
#pragma once

#include <cstdint>

#include "base/worker_pool.h"
#include "perceiver/experimental/tensor.h"

namespace perceiver {

float from_bf16(uint16_t bits);

/// Rounds a double to bf16 once, to nearest, ties to even.
uint16_t to_bf16(double value);

/// Rounds the elements of an f32 tensor on the CPU to bf16, both in place and into `rounded` of the same
/// shape.
void round_to_bf16(WorkerPool& workers, const Tensor& values, const Tensor& rounded);

}  // namespace perceiver
