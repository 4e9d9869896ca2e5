// Dropout's masks of one step, for tests of the CUDA kernels.
#pragma once

#include "base/philox.h"
#include "kernels/norm.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {

inline constexpr uint64_t kStep = 0x1'0000'0007;

/// A mask on both sides; `first` is the first element's number.
struct Masks {
  uint64_t step = kStep;
  DeviceArray<uint64_t> device_step{std::vector<uint64_t>{kStep}};
  kernels::DropoutMask host, device;

  Masks(double rate, int64_t first) {
    if (rate > 0) {
      host.seed = 0x123456789ABCDEF0;
      host.op = 17;
      host.threshold = static_cast<uint32_t>(rate * 4294967296.0);
      host.scale = 1 / (1 - rate);
      host.first_element = first;
    }
    device = host;
    host.step = &step;
    device.step = device_step.data();
  }
};

}  // namespace perceiver::testing
