#include "kernels/cuda/errors.h"

#include <cuda_runtime_api.h>

#include "core/check.h"

namespace perceiver::kernels::cuda {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw_failure("CUDA: {}: {}", what, cudaGetErrorString(status));
}

void require(bool condition, const char* what) {
  if (!condition) throw_failure("internal error: a CUDA kernel needs {}", what);
}

}  // namespace perceiver::kernels::cuda
