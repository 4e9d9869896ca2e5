// The kernels' interface: one plain argument struct and one function per kernel, the same for every backend.
// Pointers, sizes and strides only, never a Tensor, so that a kernel can be read, tested and timed alone. A
// backend defines every function in its own namespace; one that it lacks is a link error. Every pointer is to
// the device's memory, results and scalars included, so that a sequence of launches depends on nothing that
// the host would have to wait for, and can be recorded once and replayed (a CUDA graph).
//
// `type` is the element type T of the activations and weights; statistics, log-sum-exp, losses and parameter
// gradients are in its accumulation type (f32, or f64 for f64). Strides and leading dimensions count
// elements. A `bool accumulate` adds to the target instead of overwriting it.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/launch.h"

namespace perceiver::kernels {

using perceiver::Launch;

}  // namespace perceiver::kernels

/// Declares `function` of each backend, and the function that calls that of the launch's device. Stands in
/// namespace perceiver::kernels.
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
