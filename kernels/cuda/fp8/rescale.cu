// The scales of 8-bit operands: one thread per site.
#include "kernels/cuda/support/common.cuh"
#include "kernels/fp8.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 128;

/// The power of two that leaves `peak` the headroom of its format.
__device__ float scale_for(float peak, Fp8Format format) {
  const int binades = ilogbf(largest_of(format)) - ilogbf(peak) - fp8_headroom(format);
  return ldexpf(1.0f, max(-126, min(126, binades)));
}

/// An infinite magnitude says nothing about the scale.
__device__ float finite_or_none(float largest) {
  return isfinite(largest) ? largest : 0;
}

__global__ void rescale_kernel(Fp8Rescale k) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= k.sites) return;
  const int64_t site = k.first + index;
  float peak = k.peaks[site];
  if (k.scalars == nullptr) {
    if (peak != 0) return;
    peak = finite_or_none(k.largest[k.rank * k.all_sites + site]);
  } else {
    float largest = 0;
    for (int64_t rank = 0; rank < k.ranks; ++rank) {
      float& part = k.largest[rank * k.all_sites + site];
      largest = fmaxf(largest, finite_or_none(part));
      part = 0;
    }
    if (k.scalars->finite == 0) return;
    peak = fmaxf(largest, peak * kFp8Decay);
  }
  constexpr float kSmallestNormal = 1.17549435e-38f;
  const float scale = peak >= kSmallestNormal ? scale_for(peak, fp8_format_of_site(site)) : 1;
  k.peaks[site] = peak;
  k.scales[fp8_scale_of(site)] = scale;
  k.scales[fp8_inverse_of(site)] = 1 / scale;
}

}  // namespace

const char* fp8_obstacle() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  return major * 10 + minor >= 89 ? nullptr : "has no 8-bit tensor cores (compute capability 8.9)";
}

void fp8_rescale(const Launch& launch, const Fp8Rescale& k) {
  if (k.sites == 0) return;
  const auto blocks = static_cast<unsigned>(ceil_div(k.sites, kThreads));
  rescale_kernel<<<blocks, kThreads, 0, stream_of(launch)>>>(k);
  check_launch("fp8_rescale");
}

}  // namespace perceiver::kernels::cuda
