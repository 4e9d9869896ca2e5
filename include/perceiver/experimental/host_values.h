// Tensors of any floating-point type as doubles on the host.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <functional>
#include <vector>

#include "perceiver/experimental/tensor.h"
#include "perceiver/export.h"

namespace perceiver {

/// The values of an f32, f64 or bf16 tensor of any device; throws `user` for another type.
PERCEIVER_API std::vector<double> host_doubles(const Tensor& tensor);

/// Sets element i of an f32, f64 or bf16 tensor to value(i), rounded once; throws `user` for another type.
PERCEIVER_API void fill(const Tensor& tensor, const std::function<double(int64_t)>& value);

}  // namespace perceiver
