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

namespace {

bool is_hopper(int device) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  return major == 9 && minor == 0;
}

}  // namespace

bool on_hopper() {
  // Launches ask.
  thread_local int asked = -1;
  thread_local bool hopper = false;
  int device = 0;
  check(cudaGetDevice(&device), "current device");
  if (device != asked) hopper = is_hopper(device);
  asked = device;
  return hopper;
}

}  // namespace perceiver::kernels::cuda::hopper
