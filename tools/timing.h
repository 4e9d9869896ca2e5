// Kernel timing.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "perceiver/experimental/device_context.h"

namespace perceiver::program {

/// Median milliseconds of one call of `work`; each sample spans several calls on a GPU to amortise launches.
inline double median_ms(DeviceContext& context, int repeats, const std::function<void()>& work) {
  const int calls = context.is_cuda() ? 4 : 1;
  std::vector<double> samples;
  for (int i = 0; i < repeats + 2; ++i) {
    context.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) work();
    context.synchronize();
    samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() * 1e3 /
                      calls);
  }
  const auto first = samples.begin() + 2, middle = first + repeats / 2;  // two to warm up
  std::nth_element(first, middle, samples.end());
  return *middle;
}

}  // namespace perceiver::program
