// CUDA kernels of the losses against the CPU's in f64.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/loss.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaLoss : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaLoss, ElementTypes);

struct LossCase {
  int64_t rows, vocabulary;
  double smoothing = 0, z_loss = 0;
  int64_t shift = 0;
};

const LossCase kLossCases[] = {{70, 259, 0.1, 1e-4},  {33, 512},      {9, 1024, 0.1},     {5, 1000, 0, 1e-3},
                               {6, 32768, 0.1, 1e-4}, {7, 4099, 0.2}, {3, 2048, 0, 0, 1}, {65, 2, 0.1},
                               {9, 4096, 0, 1e-4}};

template <typename T>
void check_loss(const Launch& launch, const LossCase& c, bool gradient, bool statistics, int64_t gap = 0) {
  SCOPED_TRACE(::testing::Message() << c.rows << " x " << c.vocabulary);
  const int64_t stride = c.vocabulary + gap, n = c.rows * stride;
  const auto rows = static_cast<size_t>(c.rows);
  Values logits = random_values<T>(n, 1, 3);
  Ints targets = random_ints(c.rows, 2, static_cast<int32_t>(c.vocabulary));
  for (size_t r = 0; r < rows; ++r) {
    double* row = logits.data() + r * static_cast<size_t>(stride);
    if (r % 4 == 1 && targets[r] != 0) row[targets[r]] = 16;                      // correct
    if (r % 8 == 5 && targets[r] != 0) row[targets[r] / 2] = 16;                  // a tie before the target
    if (r % 8 == 1 && targets[r] + 1 < c.vocabulary) row[c.vocabulary - 1] = 16;  // a tie after the target
  }
  targets[0] = 0;
  double scale = 0.37;
  Values expected(logits), nll(rows), loss(rows), z(rows);
  std::vector<uint8_t> correct(rows);
  kernels::cpu::cross_entropy({.type = DType::f64,
                               .rows = c.rows,
                               .vocabulary = c.vocabulary,
                               .stride = stride,
                               .logits = expected.data(),
                               .targets = targets.data(),
                               .label_smoothing = c.smoothing,
                               .z_loss = c.z_loss,
                               .gradient_scale = gradient ? &scale : nullptr,
                               .nll = nll.data(),
                               .loss = loss.data(),
                               .z = z.data(),
                               .correct = correct.data()});
  const Array<T> a_logits(logits, c.shift);
  const Array<float> a_nll(c.rows), a_loss(c.rows), a_z(c.rows);
  const DeviceArray<int32_t> a_targets(targets);
  const DeviceArray<uint8_t> a_correct(rows);
  const DeviceArray<double> a_scale(std::vector<double>{scale});
  kernels::cross_entropy(launch, {.type = kType<T>,
                                  .rows = c.rows,
                                  .vocabulary = c.vocabulary,
                                  .stride = stride,
                                  .logits = a_logits.data(),
                                  .targets = a_targets.data(),
                                  .label_smoothing = c.smoothing,
                                  .z_loss = c.z_loss,
                                  .gradient_scale = gradient ? a_scale.data() : nullptr,
                                  .nll = statistics ? a_nll.data() : nullptr,
                                  .loss = statistics ? a_loss.data() : nullptr,
                                  .z = statistics ? a_z.data() : nullptr,
                                  .correct = statistics ? a_correct.data() : nullptr});
  expect_close(a_logits.read(), gradient ? expected : logits, {bound_of<T>().relative, 1e-6}, "gradient");
  if (!statistics) return;
  expect_close(a_nll.read(), nll, {1e-5, 1e-5}, "nll");
  expect_close(a_loss.read(), loss, {1e-5, 1e-5}, "loss");
  expect_close(a_z.read(), z, {1e-5, 1e-5}, "z");
  EXPECT_EQ(a_correct.read(), correct);
}

TYPED_TEST(CudaLoss, CrossEntropy) {
  for (const LossCase& c : kLossCases) {
    check_loss<TypeParam>(this->launch(), c, true, true);
    check_loss<TypeParam>(this->launch(), c, false, true);
    check_loss<TypeParam>(this->launch(), c, true, false);
    check_loss<TypeParam>(this->launch(), c, true, true, 5);
  }
}

/// A row with a NaN does not count as a finite loss.
TYPED_TEST(CudaLoss, NotANumberShows) {
  using T = TypeParam;
  for (const int64_t vocabulary : {300, 3000}) {
    Values logits = random_values<T>(vocabulary, 1);
    logits[7] = std::numeric_limits<double>::quiet_NaN();
    const Array<T> a_logits(logits);
    const DeviceArray<int32_t> targets(Ints{5});
    const Array<float> loss(1);
    kernels::cross_entropy(this->launch(), {.type = kType<T>,
                                            .rows = 1,
                                            .vocabulary = vocabulary,
                                            .stride = vocabulary,
                                            .logits = a_logits.data(),
                                            .targets = targets.data(),
                                            .label_smoothing = 0,
                                            .z_loss = 0,
                                            .gradient_scale = nullptr,
                                            .nll = nullptr,
                                            .loss = loss.data(),
                                            .z = nullptr,
                                            .correct = nullptr});
    EXPECT_TRUE(std::isnan(loss.read()[0]));
  }
}

class CudaLossTotals : public CudaKernelTest<float> {};

TEST_F(CudaLossTotals, SumRows) {
  for (const int64_t rows : {1, 300, 100000}) {
    const Values loss = random_values<float>(rows, 1), nll = random_values<float>(rows, 2),
                 z = random_values<float>(rows, 3);
    const Ints targets = random_ints(rows, 4, 3), right = random_ints(rows, 5, 2);
    const std::vector<uint8_t> correct(right.begin(), right.end());
    const Array<float> a_loss(loss), a_nll(nll), a_z(z);
    const DeviceArray<uint8_t> a_correct(correct);
    const DeviceArray<int32_t> a_targets(targets);
    Values totals(5, 0);
    const DeviceArray<double> a_totals(5);
    for (const bool accumulate : {false, true}) {
      kernels::cpu::loss_totals({.type = DType::f64,
                                 .rows = rows,
                                 .loss = loss.data(),
                                 .nll = nll.data(),
                                 .z = z.data(),
                                 .correct = correct.data(),
                                 .targets = targets.data(),
                                 .totals = totals.data(),
                                 .accumulate = accumulate});
      kernels::loss_totals(launch(), {.type = DType::f32,
                                      .rows = rows,
                                      .loss = a_loss.data(),
                                      .nll = a_nll.data(),
                                      .z = a_z.data(),
                                      .correct = a_correct.data(),
                                      .targets = a_targets.data(),
                                      .totals = a_totals.data(),
                                      .accumulate = accumulate});
      expect_close(a_totals.read(), totals, {1e-12, 1e-12}, "totals");
    }
  }
}

}  // namespace
}  // namespace perceiver::testing
