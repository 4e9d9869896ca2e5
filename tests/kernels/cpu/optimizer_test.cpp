#include "kernels/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "perceiver/experimental/random.h"
#include "train/optimizer.h"

namespace perceiver {
namespace {

TEST(StepControl, ScalesOnlyLongerGradients) {
  const auto scale = [](double squares, double clip) {
    kernels::StepScalars scalars{};
    const double loss = 1;
    kernels::step_control(
        {},
        {.sum_of_squares = &squares, .loss = &loss, .clip_norm = clip, .ema_decay = 0, .scalars = &scalars});
    EXPECT_EQ(scalars.finite, 1u);
    EXPECT_EQ(scalars.update, 1);
    EXPECT_EQ(scalars.gradient_norm, std::sqrt(squares));
    return scalars.gradient_scale;
  };
  EXPECT_EQ(scale(16, 1), 0.25);
  EXPECT_EQ(scale(0.25, 1), 1);
  EXPECT_EQ(scale(16, 0), 1);
  EXPECT_EQ(scale(0, 1), 1);
}

TEST(StepControl, RefusesWhatIsNotFinite) {
  const double infinite = std::numeric_limits<double>::infinity(),
               nan = std::numeric_limits<double>::quiet_NaN();
  for (const auto& [squares, loss] : {std::pair{infinite, 1.0}, std::pair{nan, 1.0}, std::pair{1.0, nan}}) {
    kernels::StepScalars scalars{};
    scalars.finite = 1;
    scalars.update = 7;
    kernels::step_control(
        {},
        {.sum_of_squares = &squares, .loss = &loss, .clip_norm = 1, .ema_decay = 0.5, .scalars = &scalars});
    EXPECT_EQ(scalars.finite, 0u);
    EXPECT_EQ(scalars.update, 7);
    std::vector<float> values{1}, gradients{1}, first{0}, second{0};
    const kernels::ParameterTile tile{
        .begin = 0, .elements = 1, .parameter = 0, .weight_decay = 0, .layerwise = true};
    kernels::adam({}, {.type = DType::f32,
                       .moment_type = DType::f32,
                       .tiles = &tile,
                       .tile_count = 1,
                       .parameters = values.data(),
                       .gradients = gradients.data(),
                       .first_moment = first.data(),
                       .second_moment = second.data(),
                       .beta1 = 0.9,
                       .beta2 = 0.99,
                       .epsilon = 1e-8,
                       .decoupled = false,
                       .scalars = &scalars});
    EXPECT_EQ(values[0], 1);
    EXPECT_EQ(first[0], 0);
  }
}

TEST(MovingAverage, FollowsItsFormula) {
  std::vector<double> values(10000), average(10000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i), average[i] = 1;
  kernels::StepScalars scalars{};
  scalars.average_decay = 0.75;
  scalars.finite = 1;
  kernels::moving_average({}, {.type = DType::f64,
                               .elements = 10000,
                               .values = values.data(),
                               .average = average.data(),
                               .scalars = &scalars});
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(average[i], 0.75 + 0.25 * static_cast<double>(i), 1e-9);
}

}  // namespace
}  // namespace perceiver
