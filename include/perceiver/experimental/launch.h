// Where kernels run: what a device context passes to every launch. Kernels of one's own need `device` and
// `stream`.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <cstdint>

#include "perceiver/experimental/dtype.h"

namespace perceiver {

/// Precision of f32 matrix products: full, or (faster, CUDA only) with operands rounded to tf32.
enum class MatmulPrecision : uint8_t { full, tf32 };

/// Work on a stream runs in order, so successive launches share the workspace.
struct Launch {
  Device device;
  void* stream = nullptr;       ///< cudaStream_t; null on the CPU, where a launch is a plain call
  void* workspace = nullptr;    ///< device memory for partial results, aligned to 256 bytes
  int64_t workspace_bytes = 0;  ///< CUDA: at least 64 MiB
  int sm_count = 1;             ///< streaming multiprocessors
  MatmulPrecision matmul_precision = MatmulPrecision::full;
  void* gemm_context = nullptr;  ///< cuda::GemmContext (kernels/cuda/gemm/gemm.h); null on the CPU
  void* cudnn = nullptr;  ///< cuda::CudnnPlans (kernels/cuda/attention/cudnn_attention.h); null on the CPU
};

}  // namespace perceiver
