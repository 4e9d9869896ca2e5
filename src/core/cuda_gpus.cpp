#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <array>

#include "core/gpus.h"
#include "kernels/cuda/support/errors.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {
namespace {

using kernels::cuda::check;

/// As nvidia-smi writes it: GPU-6f1c2d3e-....
std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

std::string bus_text(int index) {
  std::array<char, 32> text{};
  check(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), index), "PCI bus of the device");
  return text.data();
}

}  // namespace

std::vector<Gpu> visible_gpus() {
  std::vector<Gpu> gpus;
  for (int index = 0; index < DeviceContext::cuda_devices(); ++index) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), "properties of the device");
    gpus.push_back({.index = index,
                    .name = properties.name,
                    .memory = static_cast<int64_t>(properties.totalGlobalMem),
                    .major = properties.major,
                    .minor = properties.minor,
                    .uuid = uuid_text(properties.uuid),
                    .bus = bus_text(index)});
  }
  return gpus;
}

bool has_peer_access(int from, int to) {
  int yes = 0;
  check(cudaDeviceCanAccessPeer(&yes, from, to), "access between devices");
  return yes != 0;
}

}  // namespace perceiver
