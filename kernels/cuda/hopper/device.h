// Whether the kernels for Hopper can run.
#pragma once

namespace perceiver::kernels::cuda::hopper {

/// Whether this build has them (PERCEIVER_CUDA_ARCHITECTURES with 90a).
bool built();

/// Whether the current device is of compute capability 9.0: wgmma and setmaxnreg exist in no other.
bool on_hopper();

}  // namespace perceiver::kernels::cuda::hopper
