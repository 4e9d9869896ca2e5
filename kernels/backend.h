// The kernels' interface: one plain argument struct and one function per kernel, the same for every backend.
// Arguments are pointers, sizes and strides, never a Tensor, so that a kernel can be read, tested and timed
// alone. Each backend defines every function in its own namespace; a missing one is a link error. All
// pointers point to device memory, including those to results and scalars: launches never make the host wait,
// so a sequence of them can be recorded once and replayed (a CUDA graph).
//
// `type` is the element type T of activations and weights; statistics, log-sum-exp, losses and parameter
// gradients are in its accumulation type (f32, or f64 for f64). Strides and leading dimensions count
// elements. `accumulate` adds to the target instead of overwriting it. Fields with a default value are
// optional; calls name the fields they set.
#pragma once

#include <cstdint>

#include "perceiver/experimental/dtype.h"
#include "perceiver/experimental/launch.h"

namespace perceiver::kernels {

using perceiver::Launch;

}  // namespace perceiver::kernels

/// Declares `function` for each backend, and a dispatcher that calls the one for the launch's device. Use it
/// inside namespace perceiver::kernels.
#ifdef PERCEIVER_CUDA
#define PERCEIVER_KERNEL(function, Arguments)                                             \
  namespace cpu {                                                                         \
  void function(const Arguments& arguments);                                              \
  }                                                                                       \
  namespace cuda {                                                                        \
  void function(const Launch& launch, const Arguments& arguments);                        \
  }                                                                                       \
  inline void function(const Launch& launch, const Arguments& arguments) {                \
    if (launch.device.kind == DeviceKind::cuda) return cuda::function(launch, arguments); \
    cpu::function(arguments);                                                             \
  }
#else
#define PERCEIVER_KERNEL(function, Arguments)                       \
  namespace cpu {                                                   \
  void function(const Arguments& arguments);                        \
  }                                                                 \
  inline void function(const Launch&, const Arguments& arguments) { \
    cpu::function(arguments);                                       \
  }
#endif
