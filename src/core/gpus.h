// The GPUs that this process can see, without opening any.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace perceiver {

struct Gpu {
  int index = 0;  ///< as CUDA numbers those that CUDA_VISIBLE_DEVICES leaves
  std::string name;
  int64_t memory = 0;        ///< bytes
  int major = 0, minor = 0;  ///< compute capability
  std::string uuid;          ///< "GPU-6f1c…", as nvidia-smi -L prints it; the same for every process
  std::string bus;           ///< "0000:1b:00.0"
};

/// Empty without a GPU or a driver, or if the library was built without CUDA.
std::vector<Gpu> visible_gpus();
/// Whether GPU `from` can read the memory of GPU `to` directly (NVLink or PCIe).
bool has_peer_access(int from, int to);

}  // namespace perceiver
