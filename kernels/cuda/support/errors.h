// Errors of the CUDA backend. Free of the formatting library, which nvcc would otherwise compile in every
// file.
#pragma once

#include <driver_types.h>

namespace perceiver::kernels::cuda {

/// Throws a `failure` Error unless `status` is success; `what` names the operation.
void check(cudaError_t status, const char* what);

/// Internal consistency: throws if the condition is false, which is a bug in this library.
void require(bool condition, const char* what);

}  // namespace perceiver::kernels::cuda
