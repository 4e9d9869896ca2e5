// Tensors of any floating-point type as numbers on the host.
#pragma once

#include <functional>
#include <vector>

#include "core/tensor.h"

namespace perceiver {

/// Values of a f32, f64 or bf16 tensor.
std::vector<double> host_doubles(const Tensor& tensor);

/// Element i of a f32, f64 or bf16 tensor = value(i), rounded once.
void fill(const Tensor& tensor, const std::function<double(int64_t)>& value);

/// Rounds the elements of a f32 tensor of the CPU to bf16, in place and into `narrow`, of its shape.
void round_to_bf16(const Tensor& values, const Tensor& narrow);

}  // namespace perceiver
