#include "model/projection.h"

#include <gtest/gtest.h>

#include "model/precision.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/context_model.h"
#include "tests/support/gpu.h"
#include "tests/support/small_model.h"

namespace perceiver {
namespace {

using testing::ContextModel;
using testing::distance;
using testing::kChannels;
using testing::kColumns;
using testing::kExamples;
using testing::KeysAndValues;

using testing::cpu;
using testing::random_tensor;
using testing::run;

/// On the GPU in bf16, tables give keys, values and gradients at least as close to float64 as the direct
/// path.
TEST(Projection, TablesAreTheCloserPathInBfloat16) {
  SKIP_WITHOUT_GPU();
  const auto gpu = testing::gpu();
  for (const bool absolute : {false, true}) {
    ContextModel narrow(*gpu, DType::bf16, absolute), wide(cpu(), DType::f64, absolute);
    narrow.store.initialize(1);
    const std::vector<double> weights = host_doubles(narrow.store.values());
    wide.store.values().copy_from_host(std::as_bytes(std::span<const double>(weights)));
    // Exact in bf16, so that all start from the same values.
    const Tensor rounded = Tensor::empty(*gpu, DType::bf16, {kExamples * kColumns * 2 * kChannels});
    const std::vector<double> normal = random_tensor({rounded.elements()}, 8).to_host<double>();
    fill(rounded, [&](int64_t i) { return normal[static_cast<size_t>(i)]; });
    const std::vector<double> d_kv = host_doubles(rounded);
    apply_precision(Precision::bfloat16, *gpu);
    const KeysAndValues exact = wide.run(false, d_kv), direct = narrow.run(false, d_kv),
                        table = narrow.run(true, d_kv);
    const auto all = static_cast<int64_t>(exact.kv.size());
    EXPECT_LT(distance(table.kv, exact.kv, 0, all), distance(direct.kv, exact.kv, 0, all));
    const std::vector<double> nothing(exact.gradients.size());
    for (const ParameterInfo& info : narrow.store.infos()) {
      const auto error = [&](const KeysAndValues& path) {
        return distance(path.gradients, exact.gradients, info.offset, info.elements());
      };
      const double size = distance(exact.gradients, nothing, info.offset, info.elements());
      EXPECT_LE(error(table), error(direct) + 1e-6 * size) << info.name;
      EXPECT_LE(error(table), 1e-2 * size) << info.name;
    }
  }
}

}  // namespace
}  // namespace perceiver
