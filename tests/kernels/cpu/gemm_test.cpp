#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include "perceiver/error.h"

namespace perceiver {
namespace {

TEST(Gemm, AnErrorInsideAKernelIsCaughtOutside) {
  float values[4] = {};
  const kernels::Gemm impossible{.type = DType::f32,
                                 .out_type = DType::f32,
                                 .m = 2,
                                 .n = 2,
                                 .k = 2,
                                 .a = values,
                                 .lda = 1,
                                 .b = values,
                                 .ldb = 2,
                                 .c = values,
                                 .ldc = 2};
  try {
    kernels::cpu::gemm(impossible);
    FAIL() << "rows of two elements, one apart";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::failure);
  }
}

}  // namespace
}  // namespace perceiver
