// For tests that need a GPU: without one they report themselves skipped, and for no other reason.
#pragma once

#include <gtest/gtest.h>

#include "perceiver/experimental/device_context.h"

namespace perceiver::testing {

/// The first GPU; null where there is none or the library was built without CUDA.
inline std::shared_ptr<DeviceContext> gpu() {
  auto context = DeviceContext::open("auto", 2);
  return context->is_cuda() ? context : nullptr;
}

}  // namespace perceiver::testing

#define SKIP_WITHOUT_GPU() \
  if (::perceiver::testing::gpu() == nullptr) GTEST_SKIP() << "no CUDA device"
