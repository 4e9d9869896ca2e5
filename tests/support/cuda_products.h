// For tests of the CUDA kernels that multiply.
#pragma once

#include <optional>

#include "kernels/cuda/gemm/gemm.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {

template <typename T>
class CudaProductsTest : public CudaKernelTest<T> {
 protected:
  /// For kernels that may call cuBLASLt.
  Launch products_launch() {
    Launch launch = this->launch();
    launch.gemm_context = &context_.emplace();
    return launch;
  }

 private:
  std::optional<kernels::cuda::GemmContext> context_;
};

}  // namespace perceiver::testing
