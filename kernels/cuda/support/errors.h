// Errors of the CUDA backend, without the formatting library, which nvcc would compile in every file.
#pragma once

#include <driver_types.h>

namespace perceiver::kernels::cuda {

/// Throws a `failure` Error unless `status` is success; `what` says what was tried.
void check(cudaError_t status, const char* what);

/// Internal consistency: a false condition is a bug in this library.
void require(bool condition, const char* what);

}  // namespace perceiver::kernels::cuda
