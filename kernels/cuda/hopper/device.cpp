#include "kernels/cuda/hopper/device.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda/support/errors.h"

namespace perceiver::kernels::cuda::hopper {

bool built() {
#ifdef PERCEIVER_HOPPER
  return true;
#else
  return false;
#endif
}

bool on_hopper() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  return major == 9 && minor == 0;
}

}  // namespace perceiver::kernels::cuda::hopper
