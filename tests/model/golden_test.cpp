// The model against the authors' own results.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/golden.h"
#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_golden_file;
using testing::golden_files;
using testing::golden_folder;

namespace fs = std::filesystem;

TEST(Golden, FolderHasFiles) {
  EXPECT_FALSE(golden_files(false).empty()) << golden_folder();
}

TEST(Golden, Float32) {
  for (const fs::path& path : golden_files(false))
    check_golden_file(path, DeviceContext::cpu(2), DType::f32, {1e-4, 1e-5, 1e-3}, Recompute::none);
}

// The files are float32, so in float64 the difference is their rounding, not ours.
TEST(Golden, Float64) {
  for (const fs::path& path : golden_files(false))
    check_golden_file(path, DeviceContext::cpu(2), DType::f64, {2e-5, 2e-6, 1e-4}, Recompute::block);
}

}  // namespace
}  // namespace perceiver
