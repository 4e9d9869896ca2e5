// Muon's elementwise kernels against the CPU's in f64.
#include "kernels/muon.h"

#include <gtest/gtest.h>

#include "tests/support/cuda_check.h"

namespace perceiver {
namespace {

using namespace testing;
using kernels::StepScalars;

template <typename T>
class CudaMuon : public CudaKernelTest<T> {
 protected:
  using CudaKernelTest<T>::kElement;

  static StepScalars scalars(bool finite = true) {
    StepScalars scalars{};
    scalars.learning_rate = 0.02;
    scalars.gradient_scale = 0.7;
    scalars.finite = finite;
    return scalars;
  }

  /// Elements of arrays that are aligned for wide accesses, and of some that are not.
  static constexpr std::pair<int64_t, int64_t> kSizes[] = {{4096, 0}, {5003, 0}, {777, 1}, {1, 0}};
};

TYPED_TEST_SUITE(CudaMuon, ElementTypes);

TYPED_TEST(CudaMuon, Momentum) {
  for (const bool finite : {true, false})
    for (const auto& [n, shift] : this->kSizes) {
      const StepScalars host = this->scalars(finite);
      const DeviceArray<StepScalars> device(std::vector<StepScalars>{host});
      const Values gradients = random_values<float>(n, 1);
      Values momentum = random_values<float>(n, 2), update = random_values<float>(n, 3);
      const Array<float> a_gradients(gradients, shift), a_momentum(momentum, shift), a_update(update, shift);
      kernels::cpu::muon_momentum({.type = DType::f64,
                                   .elements = n,
                                   .gradients = gradients.data(),
                                   .momentum = momentum.data(),
                                   .update = update.data(),
                                   .decay = 0.95,
                                   .scalars = &host});
      kernels::muon_momentum(this->launch(), {.type = DType::f32,
                                              .elements = n,
                                              .gradients = a_gradients.data(),
                                              .momentum = a_momentum.data(),
                                              .update = a_update.data(),
                                              .decay = 0.95,
                                              .scalars = device.data()});
      expect_close(a_momentum.read(), momentum, bound_of<float>(), "momentum");
      expect_close(a_update.read(), update, bound_of<float>(), "update");
    }
}

TYPED_TEST(CudaMuon, Normalize) {
  for (const auto& [n, shift] : this->kSizes)
    for (const double squares : {0.0, 30.0}) {
      const Values x = random_values<float>(n, 1);
      Values y(x.size());
      const Array<float> a_x(x, shift);
      const Array<TypeParam> a_y(n, shift);
      const DeviceArray<double> a_squares(std::vector<double>{squares});
      kernels::cpu::muon_normalize({.from = DType::f64,
                                    .to = DType::f64,
                                    .elements = n,
                                    .x = x.data(),
                                    .sum_of_squares = &squares,
                                    .y = y.data()});
      kernels::muon_normalize(this->launch(), {.from = DType::f32,
                                               .to = this->kElement,
                                               .elements = n,
                                               .x = a_x.data(),
                                               .sum_of_squares = a_squares.data(),
                                               .y = a_y.data()});
      expect_close(a_y.read(), y, bound_of<TypeParam>(), "y");
    }
}

TYPED_TEST(CudaMuon, Polynomial) {
  constexpr int64_t count = 3;
  for (const auto& [size, shift] : {std::pair<int64_t, int64_t>{64, 0}, {37, 0}, {24, 1}, {1, 0}}) {
    const Values matrix = random_values<TypeParam>(count * size * size, 1);
    Values square = random_values<TypeParam>(count * size * size, 2);
    const Array<TypeParam> a_matrix(matrix, shift), a_square(square, shift);
    kernels::cpu::muon_polynomial(
        {.type = DType::f64, .count = count, .size = size, .matrix = matrix.data(), .square = square.data()});
    kernels::muon_polynomial(this->launch(), {.type = this->kElement,
                                              .count = count,
                                              .size = size,
                                              .matrix = a_matrix.data(),
                                              .square = a_square.data()});
    expect_close(a_square.read(), square, bound_of<TypeParam>(), "polynomial");
  }
}

TYPED_TEST(CudaMuon, Step) {
  for (const bool finite : {true, false})
    for (const auto& [n, shift] : this->kSizes) {
      const StepScalars host = this->scalars(finite);
      const DeviceArray<StepScalars> device(std::vector<StepScalars>{host});
      const Values update = random_values<TypeParam>(n, 1);
      Values p = random_values<float>(n, 2);
      const Array<TypeParam> a_update(update, shift);
      const Array<float> a_p(p, shift);
      kernels::cpu::muon_step({.type = DType::f64,
                               .update_type = DType::f64,
                               .elements = n,
                               .parameters = p.data(),
                               .update = update.data(),
                               .scale = 3,
                               .weight_decay = 0.1,
                               .scalars = &host});
      kernels::muon_step(this->launch(), {.type = DType::f32,
                                          .update_type = this->kElement,
                                          .elements = n,
                                          .parameters = a_p.data(),
                                          .update = a_update.data(),
                                          .scale = 3,
                                          .weight_decay = 0.1,
                                          .scalars = device.data()});
      expect_close(a_p.read(), p, bound_of<float>(), "parameters");
    }
}

}  // namespace
}  // namespace perceiver
