// CUDA optimizers over several steps against the CPU's in f64, and the decision whether to take a step.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/optimizer.h"
#include "tests/support/cuda_check.h"

namespace perceiver {
namespace {

using namespace testing;
using kernels::ParameterTile;
using kernels::StepScalars;

/// Parameters of uneven sizes, cut into tiles of at most 4096; the third starts at an odd element, and the
/// gaps between parameters belong to none.
struct Parameters {
  int64_t elements = 0;
  std::vector<ParameterTile> tiles;

  Parameters() {
    const int64_t sizes[] = {10000, 4096, 33, 130 * 70, 1};
    for (int64_t i = 0; i < 5; ++i) {
      for (int64_t begin = 0; begin < sizes[i]; begin += 4096)
        tiles.push_back(
            {elements + begin, std::min<int64_t>(4096, sizes[i] - begin), i, i % 2 == 0 ? 0.1 : 0, i != 2});
      elements += sizes[i] + (i == 1 ? 3 : i == 2 ? 4 : 0);
    }
  }
};

class CudaOptimizers : public CudaKernelTest<float> {
 protected:
  void SetUp() override {
    CudaKernelTest<float>::SetUp();
    if (IsSkipped()) return;
    tiles_ = std::make_unique<DeviceArray<ParameterTile>>(parameters_.tiles);
    device_ = std::make_unique<DeviceArray<StepScalars>>(1);
    values_ = random_values<float>(parameters_.elements, 1, 0.5);
    first_ = second_ = Values(values_.size(), 0);
    a_values_ = std::make_unique<Array<float>>(values_);
    a_first_ = std::make_unique<Array<float>>(first_);
    a_second_ = std::make_unique<Array<float>>(second_);
  }

  /// Sets the scalars of update `t` on host and device.
  void set_scalars(int64_t t, bool finite = true) {
    host_ = {static_cast<uint64_t>(t),
             1,
             0.01 / static_cast<double>(t),
             static_cast<double>(t),
             t == 2 ? 0.5 : 1,
             0.9,
             1,
             finite};
    device_->write({host_});
  }

  /// Calls update(t, gradients, device gradients) for four updates, then compares.
  template <typename Update>
  void run(Update&& update) {
    for (int64_t t = 1; t <= 4; ++t) {
      set_scalars(t);
      Values gradients = random_values<float>(parameters_.elements, 10 + static_cast<uint32_t>(t), 0.3);
      for (size_t i = 4; i < gradients.size(); i += 5) gradients[i] = 0;
      const Array<float> a_gradients(gradients);
      update(gradients.data(), a_gradients.data());
      synchronize();
    }
    expect_close(a_values_->read(), values_, {2e-5, 1e-5}, "parameters");
    expect_close(a_first_->read(), first_, {2e-5, 1e-5}, "first moment");
    expect_close(a_second_->read(), second_, {2e-5, 1e-5}, "second moment");
  }

  const StepScalars* device_scalars() const { return device_->data(); }
  int64_t tile_count() const { return static_cast<int64_t>(parameters_.tiles.size()); }

  Parameters parameters_;
  std::unique_ptr<DeviceArray<ParameterTile>> tiles_;
  std::unique_ptr<DeviceArray<StepScalars>> device_;
  StepScalars host_{};
  Values values_, first_, second_;
  std::unique_ptr<Array<float>> a_values_, a_first_, a_second_;
};

TEST_F(CudaOptimizers, Adam) {
  for (const bool decoupled : {false, true})
    run([&](double* gradients, float* a_gradients) {
      kernels::cpu::adam({.type = DType::f64,
                          .moment_type = DType::f64,
                          .tiles = parameters_.tiles.data(),
                          .tile_count = tile_count(),
                          .parameters = values_.data(),
                          .gradients = gradients,
                          .first_moment = first_.data(),
                          .second_moment = second_.data(),
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .epsilon = 1e-8,
                          .decoupled = decoupled,
                          .scalars = &host_});
      kernels::adam(launch(), {.type = DType::f32,
                               .moment_type = DType::f32,
                               .tiles = tiles_->data(),
                               .tile_count = tile_count(),
                               .parameters = a_values_->data(),
                               .gradients = a_gradients,
                               .first_moment = a_first_->data(),
                               .second_moment = a_second_->data(),
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .epsilon = 1e-8,
                               .decoupled = decoupled,
                               .scalars = device_scalars()});
    });
}

TEST_F(CudaOptimizers, Sgd) {
  for (const bool nesterov : {false, true})
    for (const double momentum : {0.9, 0.0})
      run([&](double* gradients, float* a_gradients) {
        kernels::cpu::sgd({.type = DType::f64,
                           .tiles = parameters_.tiles.data(),
                           .tile_count = tile_count(),
                           .parameters = values_.data(),
                           .gradients = gradients,
                           .momentum_buffer = momentum > 0 ? first_.data() : nullptr,
                           .momentum = momentum,
                           .nesterov = nesterov,
                           .scalars = &host_});
        kernels::sgd(launch(), {.type = DType::f32,
                                .tiles = tiles_->data(),
                                .tile_count = tile_count(),
                                .parameters = a_values_->data(),
                                .gradients = a_gradients,
                                .momentum_buffer = momentum > 0 ? a_first_->data() : nullptr,
                                .momentum = momentum,
                                .nesterov = nesterov,
                                .scalars = device_scalars()});
      });
}

TEST_F(CudaOptimizers, Lamb) {
  // The last parameter is 0, so that its ratio is 1.
  values_.back() = 0;
  a_values_->write(values_);
  Values norms(static_cast<size_t>(2 * tile_count()));
  const DeviceArray<double> a_norms(norms.size());
  run([&](double* gradients, float* a_gradients) {
    kernels::cpu::lamb({.type = DType::f64,
                        .tiles = parameters_.tiles.data(),
                        .tile_count = tile_count(),
                        .parameters = values_.data(),
                        .gradients = gradients,
                        .first_moment = first_.data(),
                        .second_moment = second_.data(),
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .epsilon = 1e-6,
                        .norms = norms.data(),
                        .scalars = &host_});
    kernels::lamb(launch(), {.type = DType::f32,
                             .tiles = tiles_->data(),
                             .tile_count = tile_count(),
                             .parameters = a_values_->data(),
                             .gradients = a_gradients,
                             .first_moment = a_first_->data(),
                             .second_moment = a_second_->data(),
                             .beta1 = 0.9,
                             .beta2 = 0.999,
                             .epsilon = 1e-6,
                             .norms = a_norms.data(),
                             .scalars = device_scalars()});
  });
}

/// Many parameters, with and without factored moments, some of several parts, some after the last factored
/// one.
TEST_F(CudaOptimizers, Adafactor) {
  struct Matrix {
    int64_t rows, columns;
    bool factored;
  };
  const Matrix matrices[] = {{1, 40, false},   {300, 512, true}, {1, 512, false},   {130, 70, true},
                             {1, 5, true},     {2100, 3, true},  {1, 70000, false}, {7, 1, true},
                             {65, 2048, true}, {1, 9, false}};
  std::vector<kernels::AdafactorParameter> table;
  int64_t elements = 0, moments = 0;
  for (const Matrix& m : matrices) {
    table.push_back({elements, m.rows, m.columns, m.factored, moments, moments + m.rows,
                     table.size() % 2 == 0 ? 0.1 : 0});
    elements += m.rows * m.columns;
    moments += m.factored ? m.rows + m.columns : m.rows * m.columns;
  }
  Values values = random_values<float>(elements, 1, 0.5), state(static_cast<size_t>(moments), 0);
  const Array<float> a_values(values), a_state(state);
  const DeviceArray<kernels::AdafactorParameter> a_table(table);
  const auto count = static_cast<int64_t>(table.size());
  for (int64_t t = 1; t <= 4; ++t) {
    set_scalars(t);
    const Values gradients = random_values<float>(elements, 5 + static_cast<uint32_t>(t), t == 3 ? 5 : 0.3);
    const Array<float> a_gradients(gradients);
    kernels::cpu::adafactor({.type = DType::f64,
                             .table = table.data(),
                             .parameter_count = count,
                             .parameters = values.data(),
                             .gradients = gradients.data(),
                             .moments = state.data(),
                             .scalars = &host_});
    kernels::adafactor(launch(), {.type = DType::f32,
                                  .table = a_table.data(),
                                  .parameter_count = count,
                                  .parameters = a_values.data(),
                                  .gradients = a_gradients.data(),
                                  .moments = a_state.data(),
                                  .scalars = device_scalars()});
    synchronize();
  }
  expect_close(a_values.read(), values, {2e-5, 1e-5}, "parameters");
  expect_close(a_state.read(), state, {2e-5, 1e-8}, "moments");

  expect_repeatable([&] { a_values.write(values), a_state.write(state); },
                    [&] {
                      kernels::adafactor(launch(), {.type = DType::f32,
                                                    .table = a_table.data(),
                                                    .parameter_count = count,
                                                    .parameters = a_values.data(),
                                                    .gradients = a_values.data(),
                                                    .moments = a_state.data(),
                                                    .scalars = device_scalars()});
                    },
                    a_state);
}

TEST_F(CudaOptimizers, LambRepeats) {
  const Array<float> gradients(random_values<float>(parameters_.elements, 3));
  const DeviceArray<double> norms(static_cast<size_t>(2 * tile_count()));
  set_scalars(1);
  expect_repeatable([&] { a_values_->write(values_), a_first_->write(first_), a_second_->write(second_); },
                    [&] {
                      kernels::lamb(launch(), {.type = DType::f32,
                                               .tiles = tiles_->data(),
                                               .tile_count = tile_count(),
                                               .parameters = a_values_->data(),
                                               .gradients = gradients.data(),
                                               .first_moment = a_first_->data(),
                                               .second_moment = a_second_->data(),
                                               .beta1 = 0.9,
                                               .beta2 = 0.999,
                                               .epsilon = 1e-6,
                                               .norms = norms.data(),
                                               .scalars = device_scalars()});
                    },
                    *a_values_);
}

TEST_F(CudaOptimizers, MovingAverage) {
  for (const int64_t n : {1, 4096, 5003}) {
    set_scalars(1);
    const Values values = random_values<float>(n, 1);
    Values average = random_values<float>(n, 2);
    const Array<float> a_values(values), a_average(average);
    kernels::cpu::moving_average({.type = DType::f64,
                                  .elements = n,
                                  .values = values.data(),
                                  .average = average.data(),
                                  .scalars = &host_});
    kernels::moving_average(launch(), {.type = DType::f32,
                                       .elements = n,
                                       .values = a_values.data(),
                                       .average = a_average.data(),
                                       .scalars = device_scalars()});
    expect_close(a_average.read(), average, bound_of<float>(), "average");
  }
}

TEST_F(CudaOptimizers, NothingChangesUnlessFinite) {
  set_scalars(1, false);
  const Array<float> gradients(random_values<float>(parameters_.elements, 3));
  const DeviceArray<double> norms(static_cast<size_t>(2 * tile_count()));
  float *p = a_values_->data(), *m = a_first_->data(), *v = a_second_->data(), *g = gradients.data();
  const DeviceArray<kernels::AdafactorParameter> table(std::vector<kernels::AdafactorParameter>{
      {0, 10, 20, true, 0, 10, 0.1}, {200, 1, 20, false, 30, 30, 0}});
  const int64_t n = tile_count();
  kernels::adam(launch(), {.type = DType::f32,
                           .moment_type = DType::f32,
                           .tiles = tiles_->data(),
                           .tile_count = n,
                           .parameters = p,
                           .gradients = g,
                           .first_moment = m,
                           .second_moment = v,
                           .beta1 = 0.9,
                           .beta2 = 0.99,
                           .epsilon = 1e-8,
                           .decoupled = true,
                           .scalars = device_scalars()});
  kernels::sgd(launch(), {.type = DType::f32,
                          .tiles = tiles_->data(),
                          .tile_count = n,
                          .parameters = p,
                          .gradients = g,
                          .momentum_buffer = m,
                          .momentum = 0.9,
                          .nesterov = true,
                          .scalars = device_scalars()});
  kernels::lamb(launch(), {.type = DType::f32,
                           .tiles = tiles_->data(),
                           .tile_count = n,
                           .parameters = p,
                           .gradients = g,
                           .first_moment = m,
                           .second_moment = v,
                           .beta1 = 0.9,
                           .beta2 = 0.99,
                           .epsilon = 1e-8,
                           .norms = norms.data(),
                           .scalars = device_scalars()});
  kernels::adafactor(launch(), {.type = DType::f32,
                                .table = table.data(),
                                .parameter_count = 2,
                                .parameters = p,
                                .gradients = g,
                                .moments = m,
                                .scalars = device_scalars()});
  kernels::moving_average(launch(), {.type = DType::f32,
                                     .elements = parameters_.elements,
                                     .values = g,
                                     .average = p,
                                     .scalars = device_scalars()});
  EXPECT_EQ(a_values_->read(), values_);
  EXPECT_EQ(a_first_->read(), first_);
  EXPECT_EQ(a_second_->read(), second_);
}

TEST_F(CudaOptimizers, StepControl) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  struct Case {
    double squares, loss, clip, ema;
  };
  for (const Case& c : {Case{4, 1, 1, 0.999},
                        {4, 1, 3, 0.2},
                        {0, 1, 1, 0.99},
                        {4, 1, 0, 0.99},
                        {inf, 1, 1, 0.9},
                        {nan, 1, 1, 0.9},
                        {4, nan, 1, 0.9},
                        {4, -inf, 0, 0.9}}) {
    set_scalars(3);
    const DeviceArray<double> squares(std::vector<double>{c.squares}), loss(std::vector<double>{c.loss});
    kernels::cpu::step_control({.sum_of_squares = &c.squares,
                                .loss = &c.loss,
                                .clip_norm = c.clip,
                                .ema_decay = c.ema,
                                .scalars = &host_});
    kernels::step_control(launch(), {.sum_of_squares = squares.data(),
                                     .loss = loss.data(),
                                     .clip_norm = c.clip,
                                     .ema_decay = c.ema,
                                     .scalars = device_->data()});
    const StepScalars actual = device_->read()[0];
    EXPECT_EQ(actual.finite, host_.finite);
    EXPECT_EQ(actual.step, host_.step);
    EXPECT_EQ(actual.update, host_.update);
    EXPECT_DOUBLE_EQ(actual.gradient_scale, host_.gradient_scale);
    EXPECT_DOUBLE_EQ(actual.average_decay, host_.average_decay);
    EXPECT_DOUBLE_EQ(actual.learning_rate, host_.learning_rate);
    if (!std::isnan(c.squares)) {
      EXPECT_DOUBLE_EQ(actual.gradient_norm, host_.gradient_norm);
    }
  }
}

}  // namespace
}  // namespace perceiver
