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

#include "base/cpu_variant.h"
#include "perceiver/experimental/dtype.h"
#include "perceiver/experimental/launch.h"

namespace perceiver::kernels {

using perceiver::Launch;

}  // namespace perceiver::kernels

// The CPU's part of a kernel. One build has the kernels for several instruction sets
// (cmake/cpu_variants.cmake): the same sources, each time with a PERCEIVER_CPU_VARIANT of their own, which
// names the symbols perceiver_cpu_VARIANT_FUNCTION. Elsewhere cpu::function is the choice between them: a
// load and a predicted branch. In a build with one variant, cpu::function is the kernel itself.
#if defined(PERCEIVER_CPU_VARIANT)
#define PERCEIVER_TEXT_OF(x) #x
#define PERCEIVER_TEXT(x) PERCEIVER_TEXT_OF(x)
#define PERCEIVER_CPU_KERNEL(function, Arguments)    \
  void function(const Arguments& arguments) __asm__( \
      "perceiver_cpu_" PERCEIVER_TEXT(PERCEIVER_CPU_VARIANT) "_" #function);
#elif defined(PERCEIVER_CPU_DISPATCH)
#define PERCEIVER_CPU_KERNEL(function, Arguments)                      \
  extern "C" void perceiver_cpu_baseline_##function(const Arguments&); \
  extern "C" void perceiver_cpu_avx2_##function(const Arguments&);     \
  extern "C" void perceiver_cpu_avx512_##function(const Arguments&);   \
  inline void function(const Arguments& arguments) {                   \
    switch (cpu_variant()) {                                           \
      case CpuVariant::avx512:                                         \
        return perceiver_cpu_avx512_##function(arguments);             \
      case CpuVariant::avx2:                                           \
        return perceiver_cpu_avx2_##function(arguments);               \
      case CpuVariant::baseline:                                       \
        return perceiver_cpu_baseline_##function(arguments);           \
    }                                                                  \
  }
#else
#define PERCEIVER_CPU_KERNEL(function, Arguments) void function(const Arguments& arguments);
#endif

/// Declares `function` for each backend, and a dispatcher that calls the one for the launch's device. Use it
/// inside namespace perceiver::kernels. The kernels of a CPU variant see the CPU's part alone: a dispatcher
/// that is compiled with AVX-512 must not be the one that everything else calls.
#if defined(PERCEIVER_CPU_VARIANT)
#define PERCEIVER_KERNEL(function, Arguments) \
  namespace cpu {                             \
  PERCEIVER_CPU_KERNEL(function, Arguments)   \
  }
#elif defined(PERCEIVER_CUDA)
#define PERCEIVER_KERNEL(function, Arguments)                                             \
  namespace cpu {                                                                         \
  PERCEIVER_CPU_KERNEL(function, Arguments)                                               \
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
  PERCEIVER_CPU_KERNEL(function, Arguments)                         \
  }                                                                 \
  inline void function(const Launch&, const Arguments& arguments) { \
    cpu::function(arguments);                                       \
  }
#endif
