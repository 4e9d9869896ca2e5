#include "kernels/cuda/support/errors.h"

#include <cuda_runtime_api.h>

#include "base/check.h"
#include "base/memory_advice.h"

namespace perceiver::kernels::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  if (status != cudaErrorMemoryAllocation) throw_failure("CUDA: {}: {}", what, cudaGetErrorString(status));
  // Graphs, pinned memory, streams and kernel code take memory too, outside the allocator.
  cudaGetLastError();  // clears it, so that the next launch does not report it
  size_t unused = 0, total = 0;
  cudaMemGetInfo(&unused, &total);
  throw_failure("CUDA: {}: out of memory, with {} MiB free of {} MiB on the GPU; {}", what, unused >> 20,
                total >> 20, kMemoryAdvice);
}

void require(bool condition, const char* what) {
  if (!condition) throw_failure("internal error: a CUDA kernel needs {}", what);
}

}  // namespace perceiver::kernels::cuda
