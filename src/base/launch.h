// Where kernels run: what a device context hands to every launch.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace perceiver {

/// How products of f32 matrices are computed: in full, or (faster, CUDA alone) with operands rounded to tf32.
enum class MatmulPrecision : uint8_t { full, tf32 };

/// All work of one stream is in order, so that successive launches share the workspace.
struct Launch {
  Device device;
  void* stream = nullptr;       ///< cudaStream_t; null on the CPU, where a launch is a call
  void* workspace = nullptr;    ///< device memory for partial results, aligned to 256 bytes
  int64_t workspace_bytes = 0;  ///< CUDA: at least 64 MiB
  int sm_count = 1;             ///< streaming multiprocessors
  MatmulPrecision matmul_precision = MatmulPrecision::full;
  void* gemm_context = nullptr;  ///< cuda::GemmContext (kernels/cuda/gemm/gemm.h); null on the CPU
};

}  // namespace perceiver
