// Transformer-XL against golden files, on a GPU.
#include "tests/support/gpu.h"
#include "tests/support/recurrent_golden.h"

namespace perceiver {
namespace {

TEST(TransformerXLGolden, Float32OnGpu) {
  SKIP_WITHOUT_GPU();
  testing::check_recurrent_files(DType::f32, testing::gpu(), {2e-5, 2e-5, 6e-6, 1e-4});
}

// Weights, activations and memories in bfloat16: logits reach 10. Single elements of gradients are then off
// by more than a fifth of the largest; the kernels' and the training tests compare them.
TEST(TransformerXLGolden, Bfloat16OnGpu) {
  SKIP_WITHOUT_GPU();
  testing::check_recurrent_files(DType::bf16, testing::gpu(), {0.5, 0.2, 0.05, std::nullopt});
}

}  // namespace
}  // namespace perceiver
