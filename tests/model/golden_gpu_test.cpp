// The model on the GPU against the authors' own results.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/golden.h"
#include "tests/support/gpu.h"

namespace perceiver {
namespace {

using testing::check_golden_file;
using testing::golden_files;

namespace fs = std::filesystem;

TEST(Golden, Float32) {
  SKIP_WITHOUT_GPU();
  for (const fs::path& path : golden_files(false))
    check_golden_file(path, testing::gpu(), DType::f32, {1e-4, 1e-5, 1e-3}, Recompute::none);
}

// bf16 has eight bits: this checks that nothing but rounding differs.
TEST(Golden, Bfloat16) {
  SKIP_WITHOUT_GPU();
  for (const fs::path& path : golden_files(false))
    check_golden_file(path, testing::gpu(), DType::bf16, {6e-2, 2e-2, 1.5e-1}, Recompute::block);
}

}  // namespace
}  // namespace perceiver
