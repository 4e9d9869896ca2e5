#include "train/muon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>

#include "config/load.h"
#include "model/perceiver_ar.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using Values = std::vector<double>;

/// A wide, a tall and a square matrix, vectors between them, and an output.
class MuonUpdate : public ::testing::Test {
 protected:
  MuonUpdate() {
    config_.type = OptimizerType::muon;
    const Initialization random{Initializer::truncated_normal, 0.5, {}};
    store_.declare(variables_[0], "norm.scale", {9}, random);
    store_.declare(variables_[1], "wide.weight", {12, 40}, random);
    store_.declare(variables_[2], "wide.bias", {12}, random);
    store_.declare(variables_[3], "tall.weight", {40, 12}, random);
    store_.declare(variables_[4], "square.weight", {15, 15}, random);
    store_.declare(variables_[5], "output.weight", {11, 15}, random, ParameterUse::output);
    store_.allocate(*context_, DType::f64);
    store_.initialize(1);
    scalars_ = Tensor::zeros(*context_, DType::u8, {sizeof(kernels::StepScalars)});
  }

  void draw_gradients(double size) {
    RandomStream random(5, RandomPurpose::initialization, 0);
    double* const gradients = store_.gradients().as<double>();
    for (int64_t i = 0; i < store_.size(); ++i) gradients[i] = size * (random.uniform() - 0.5);
  }

  const kernels::StepScalars* scalars(double rate, bool finite = true) {
    auto* const scalars = static_cast<kernels::StepScalars*>(scalars_.data());
    *scalars = {};
    scalars->learning_rate = rate;
    scalars->gradient_scale = 1;
    scalars->update = 1;
    scalars->finite = finite;
    return scalars;
  }

  Values values(const std::string& name) const { return store_.value(*store_.find(name)).to_host<double>(); }

  /// The direction of the first update, which is subtracted.
  Values direction(const std::string& name, double gradient_size = 1) {
    draw_gradients(gradient_size);
    const Values before = values(name);
    make_muon(config_, *context_, store_)->update(0, scalars(1));
    Values moved = values(name);
    for (size_t i = 0; i < moved.size(); ++i) moved[i] = before[i] - moved[i];
    return moved;
  }

  OptimizerConfig config_;
  std::shared_ptr<DeviceContext> context_ = DeviceContext::cpu(2);
  std::array<Variable, 6> variables_;
  ParameterStore store_;
  Tensor scalars_;
};

double norm(const Values& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

/// The length of y and of yᵀ matrix, for unit vectors y on the side of `side` rows.
double stretch(const Values& matrix, size_t side, const Values& y) {
  const size_t other = matrix.size() / side;
  Values product(other, 0);
  for (size_t i = 0; i < side; ++i)
    for (size_t j = 0; j < other; ++j) product[j] += y[i] * matrix[i * other + j];
  return norm(product);
}

// Every direction is stretched alike, within what five iterations reach (Jordan et al. 2024).
TEST_F(MuonUpdate, IsNearlyOrthogonal) {
  const Values wide = direction("wide.weight"), square = direction("square.weight");
  RandomStream random(3, RandomPurpose::initialization, 0);
  for (const auto& [matrix, side, longest] :
       {std::tuple(wide, size_t{12}, 40.0), std::tuple(square, size_t{15}, 15.0)})
    for (int i = 0; i < 200; ++i) {
      Values y(side);
      for (double& each : y) each = random.uniform() - 0.5;
      const double length = norm(y);
      for (double& each : y) each /= length;
      const double stretched = stretch(matrix, side, y) / (0.2 * std::sqrt(longest));
      ASSERT_GT(stretched, 0.6);
      ASSERT_LT(stretched, 1.3);
    }
}

TEST_F(MuonUpdate, OfATransposedGradientIsTheTransposedUpdate) {
  draw_gradients(1);
  const Tensor wide = store_.gradient(*store_.find("wide.weight")),
               tall = store_.gradient(*store_.find("tall.weight"));
  for (int64_t i = 0; i < 12; ++i)
    for (int64_t j = 0; j < 40; ++j) tall.as<double>()[j * 12 + i] = wide.as<double>()[i * 40 + j];
  const Values wide_before = values("wide.weight"), tall_before = values("tall.weight");
  make_muon(config_, *context_, store_)->update(0, scalars(1));
  const Values wide_after = values("wide.weight"), tall_after = values("tall.weight");
  for (size_t i = 0; i < 12; ++i)
    for (size_t j = 0; j < 40; ++j)
      ASSERT_NEAR(wide_after[i * 40 + j] - wide_before[i * 40 + j],
                  tall_after[j * 12 + i] - tall_before[j * 12 + i], 1e-12);
}

// Matrices of one shape are multiplied at once.
TEST_F(MuonUpdate, OfAMatrixDoesNotDependOnTheOthers) {
  std::array<Variable, 3> variables;
  ParameterStore several;
  const Initialization random{Initializer::truncated_normal, 0.5, {}};
  for (size_t i = 0; i < variables.size(); ++i)
    several.declare(variables[i], fmt::format("{}.weight", i), {12, 40}, random);
  several.allocate(*context_, DType::f64);
  several.initialize(1);
  draw_gradients(1);
  const Tensor wide = store_.gradient(*store_.find("wide.weight"));
  const Values gradient = wide.to_host<double>(), before = values("wide.weight");
  for (int64_t i = 0; i < 3; ++i) {
    const ParameterInfo& info = *several.find(fmt::format("{}.weight", i));
    for (size_t j = 0; j < gradient.size(); ++j) {
      several.gradient(info).as<double>()[j] =
          i == 1 ? gradient[j] : gradient[j] * gradient[j] - 0.1 * double(i);
      several.value(info).as<double>()[j] = before[j];
    }
  }
  make_muon(config_, *context_, store_)->update(0, scalars(1));
  make_muon(config_, *context_, several)->update(0, scalars(1));
  EXPECT_EQ(several.value(*several.find("1.weight")).to_host<double>(), values("wide.weight"));
  EXPECT_NE(several.value(*several.find("0.weight")).to_host<double>(), values("wide.weight"));
}

TEST_F(MuonUpdate, IsAsLargeAsAdamsWhateverTheGradient) {
  for (const double size : {1e-4, 1.0, 1e6})
    for (const char* name : {"wide.weight", "tall.weight", "square.weight"}) {
      const Values moved = direction(name, size);
      const double rms = norm(moved) / std::sqrt(static_cast<double>(moved.size()));
      EXPECT_GT(rms, 0.14) << name;
      EXPECT_LT(rms, 0.24) << name;
    }
}

TEST_F(MuonUpdate, LeavesTheRestToAdamw) {
  const std::array names{"norm.scale", "wide.bias", "output.weight"};
  draw_gradients(1);
  config_.weight_decay = 0.1;
  std::vector<Values> results[2];
  const std::vector<double> start = store_.values().to_host<double>();
  for (const OptimizerType type : {OptimizerType::muon, OptimizerType::adamw}) {
    store_.values().copy_from_host(std::as_bytes(std::span<const double>(start)));
    config_.type = type;
    make_optimizer(config_, *context_, store_)->update(0, scalars(0.1));
    for (const char* name : names) results[type == OptimizerType::adamw].push_back(values(name));
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_F(MuonUpdate, OfNothingIsTheDecayAlone) {
  config_.weight_decay = 0.1;
  const Values before = values("wide.weight"), after = [&] {
    direction("wide.weight", 0);
    return values("wide.weight");
  }();
  for (size_t i = 0; i < before.size(); ++i) ASSERT_NEAR(after[i], 0.9 * before[i], 1e-15);
}

TEST_F(MuonUpdate, IsNotMadeUnlessFinite) {
  const auto muon = make_muon(config_, *context_, store_);
  draw_gradients(1);
  const Values before = store_.values().to_host<double>();
  store_.gradients().as<double>()[20] = std::nan("");
  muon->update(0, scalars(0.1, false));
  EXPECT_EQ(store_.values().to_host<double>(), before);
  for (const NamedTensor& each : muon->state())
    for (const double x : each.tensor.to_host<double>()) ASSERT_EQ(x, 0) << each.name;
}

TEST_F(MuonUpdate, KeepsOneMomentOfMatricesAndTwoOfTheRest) {
  std::vector<std::string> names;
  for (const NamedTensor& each : make_muon(config_, *context_, store_)->state()) {
    names.push_back(each.name);
    EXPECT_EQ(each.tensor.shape(), store_.find(each.name.substr(each.name.find('/') + 1))->shape);
  }
  EXPECT_THAT(
      names, ::testing::UnorderedElementsAre("muon.momentum/wide.weight", "muon.momentum/tall.weight",
                                             "muon.momentum/square.weight", "adam.first_moment/norm.scale",
                                             "adam.first_moment/wide.bias", "adam.first_moment/output.weight",
                                             "adam.second_moment/norm.scale", "adam.second_moment/wide.bias",
                                             "adam.second_moment/output.weight"));
}

TEST(Muon, WorksWithMatricesAlone) {
  const std::shared_ptr<DeviceContext> context = DeviceContext::cpu(1);
  ParameterStore store;
  Variable matrix;
  store.declare(matrix, "matrix", {3, 4}, {Initializer::truncated_normal, 0.5, {}});
  store.allocate(*context, DType::f32);
  OptimizerConfig config;
  config.type = OptimizerType::muon;
  EXPECT_EQ(make_optimizer(config, *context, store)->state().size(), 1u);
}

TEST(Muon, IsForTheMatricesOfAModelsLayers) {
  const Config config = parse_config("optimizer: {type: muon}\n");
  const PerceiverAR model(config.model, DeviceContext::cpu(1), DType::f32);
  std::vector<std::string> names;
  for (const NamedTensor& each :
       make_optimizer(config.optimizer, model.context(), const_cast<ParameterStore&>(model.parameters()))
           ->state())
    names.push_back(each.name);
  EXPECT_THAT(names, Contains("muon.momentum/self.0.mlp.0.weight"));
  EXPECT_THAT(names, Contains("muon.momentum/query.linear.weight"));
  EXPECT_THAT(names, Contains("adam.first_moment/token_embedding.weight"));
  EXPECT_THAT(names, Contains("adam.first_moment/output.linear.weight"));
  EXPECT_THAT(names, Not(Contains(HasSubstr("muon.momentum/output"))));
}

}  // namespace
}  // namespace perceiver
