// Tensors of any floating-point type as doubles on the host.
#pragma once

#include <functional>
#include <vector>

#include "core/tensor.h"

namespace perceiver {

/// The values of an f32, f64 or bf16 tensor.
std::vector<double> host_doubles(const Tensor& tensor);

/// Sets element i of an f32, f64 or bf16 tensor to value(i), rounded once.
void fill(const Tensor& tensor, const std::function<double(int64_t)>& value);

/// Rounds the elements of an f32 tensor on the CPU to bf16, both in place and into `rounded` of the same
/// shape.
void round_to_bf16(WorkerPool& workers, const Tensor& values, const Tensor& rounded);

}  // namespace perceiver
