// Chains of kernels with programmatic dependent launch: each is launched while the previous one is still
// running, which hides its start, and waits inside for its inputs. From compute capability 9.0 on; elsewhere
// kernels follow one another as usual.
#pragma once

#include "kernels/cuda/support/common.cuh"

namespace perceiver::kernels::cuda {

/// Before this call, a kernel of launch_dependent() may read only what was complete when the first kernel of
/// the chain began, and may write nothing. Call it from all threads.
__device__ inline void wait_for_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

/// Lets the next kernel start once all blocks of this one have called it; otherwise it starts when they have
/// finished.
__device__ inline void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/// How a kernel begins that has nothing to do before its inputs are complete. All its blocks have started by
/// the time the next kernel's are scheduled, so that these take no place from them.
__device__ inline void start_after_earlier_kernels() {
  wait_for_earlier_kernels();
  let_next_kernel_start();
}

/// Whether the kernel was compiled for an architecture on which it waits.
inline bool waits_inside(const void* kernel) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), "attributes of a kernel");
  return attributes.ptxVersion >= 90;
}

/// Launches a kernel that calls wait_for_earlier_kernels(), in at least one block; a later kernel takes the
/// end of this one for the end of all before it.
template <auto kKernel, typename... Arguments>
void launch_dependent(const Launch& launch, const char* name, dim3 blocks, dim3 threads, size_t shared_bytes,
                      const Arguments&... arguments) {
  static const bool overlaps = waits_inside(reinterpret_cast<const void*>(kKernel));
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream_of(launch);
  config.attrs = &attribute;
  config.numAttrs = overlaps ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kKernel, arguments...), name);
}

}  // namespace perceiver::kernels::cuda
