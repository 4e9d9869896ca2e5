// A model of one's own, from the public headers alone, as a program that links the library has them: its
// gradients are those of finite differences, and training lowers its loss.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "perceiver/experimental/experimental.h"

namespace perceiver {
namespace {

constexpr int64_t kVocabulary = 7, kChannels = 8, kHeads = 2, kBatch = 2, kLength = 5;

/// An operation of one's own: x · y, elementwise, float64 on the CPU.
Variable product(Tape& tape, const Variable& x, const Variable& y) {
  const Variable z = tape.result(DType::f64, x.shape());
  const int64_t count = z.value.elements();
  for (int64_t i = 0; i < count; ++i)
    z.value.as<double>()[i] = x.value.as<double>()[i] * y.value.as<double>()[i];
  tape.record("product", z, [&tape, x, y, d_z = z.gradient, count] {
    const auto write = [&](const Variable& factor, const Variable& other) {
      const GradientTarget target = tape.target(factor);
      for (int64_t i = 0; target && i < count; ++i) {
        const double d = d_z->tensor.as<double>()[i] * other.value.as<double>()[i];
        target.tensor.as<double>()[i] = d + (target.accumulate ? target.tensor.as<double>()[i] : 0);
      }
    };
    write(x, y);
    write(y, x);
  });
  return z;
}

/// A block of gated attention over learned positions and rotated keys; the output layer has no bias.
struct Model {
  explicit Model(DeviceContext& context) {
    store.declare(tokens, "tokens", {kVocabulary, kChannels}, {Initializer::truncated_normal, 0.7},
                  ParameterUse::table);
    store.declare(places, "places", {kLength, kChannels}, {Initializer::truncated_normal, 0.7},
                  ParameterUse::table);
    declare_norm(store, norm, "norm", kChannels);
    declare_norm(store, norm_mlp, "norm_mlp", kChannels);
    declare_linear(store, qkv, "qkv", kChannels, 3 * kChannels);
    declare_linear(store, gate, "gate", kChannels, kChannels);
    mlp.declare(store, "mlp", kChannels, 2, Activation::silu);
    store.declare(output.weight, "output", {kVocabulary, kChannels}, {Initializer::fan_in});
    store.allocate(context, DType::f64);
    store.initialize(3);
    rotary = ops::make_rotary_table(context, DType::f64, kLength, kHeads, kChannels / kHeads);
    std::vector<int32_t> numbers(kBatch * kLength);
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int32_t>(i) % kLength;
    positions = Tensor::from_host<int32_t>(context, {kBatch * kLength}, numbers);
    mask = ops::causal_mask(context, kBatch, kLength);
  }

  ops::LossResult loss(Tape& tape, const Tensor& ids, const Tensor& targets, const double* scale) const {
    const std::vector<ops::Lookup> lookups{{.table = tokens, .ids = ids},
                                           {.table = places, .ids = positions}};
    const Variable x = ops::embedding(tape, lookups, kBatch * kLength, DType::f64);
    const Variable normal = ops::layer_norm(tape, x, norm);
    const Variable heads = ops::linear(tape, normal, qkv);
    const int64_t width = kChannels / kHeads;
    ops::rotary(tape, heads, 0, width, rotary, positions);
    ops::rotary(tape, heads, kChannels, width, rotary, positions);
    const ops::AttentionInputs in{heads, heads, 0, kChannels, 2 * kChannels, kBatch, kHeads, width};
    const Variable gated = product(tape, ops::attention(tape, in, mask), ops::linear(tape, normal, gate));
    const ops::DropoutSite dropout{.rate = 0.3, .per_example = kLength * kChannels};
    const auto [sum, after] = ops::residual_layer_norm(tape, x, gated, norm_mlp, dropout);
    const Variable y = ops::residual_add(tape, sum, mlp.forward(tape, after), dropout);
    return ops::output_loss(tape, y, output, targets, {.label_smoothing = 0.1, .gradient_scale = scale});
  }

  ParameterStore store;
  Variable tokens, places;
  ops::NormParameters norm, norm_mlp;
  ops::LinearParameters qkv, gate, output;
  Mlp mlp;
  ops::RotaryTable rotary;
  Tensor positions;
  ops::AttentionMask mask;
};

class OwnModel : public ::testing::Test {
 protected:
  Tensor integers(const std::vector<int32_t>& values) {
    return Tensor::from_host<int32_t>(*context_, {static_cast<int64_t>(values.size())}, values);
  }

  std::shared_ptr<DeviceContext> context_ = DeviceContext::cpu(2);
  Model model_{*context_};
  Tensor ids_ = integers({1, 4, 2, 6, 3, 5, 5, 1, 2, 4}), targets_ = integers({4, 2, 6, 3, 0, 5, 1, 2, 4, 1});
};

TEST_F(OwnModel, GradientsAreThoseOfFiniteDifferences) {
  TrainingSteps steps({}, *context_, model_.store);
  steps.start(0, 0, 0.25);
  Tape tape(*context_, true, true, steps.random(9));
  model_.loss(tape, ids_, targets_, steps.loss_scale());
  tape.backward();
  model_.store.finish_gradients();
  const auto objective = [&] {
    Tape plain(*context_, false, true, steps.random(9));
    return 0.25 * model_.loss(plain, ids_, targets_, nullptr).totals.as<double>()[0];
  };
  for (const ParameterInfo& info : model_.store.infos()) {
    double* values = model_.store.value(info).as<double>();
    const double* gradient = model_.store.gradient(info).as<double>();
    double squares = 0;
    for (int64_t i = 0; i < info.elements(); ++i) {
      const double kept = values[i], h = 1e-5;
      values[i] = kept + h;
      const double above = objective();
      values[i] = kept - h;
      const double below = objective();
      values[i] = kept;
      EXPECT_NEAR(gradient[i], (above - below) / (2 * h), 1e-7) << info.name << " element " << i;
      squares += gradient[i] * gradient[i];
    }
    EXPECT_GT(squares, 0) << info.name;
  }
}

TEST_F(OwnModel, LearnsItsTargets) {
  OptimizerConfig optimizer;
  optimizer.type = OptimizerType::adamw;
  TrainingSteps steps(optimizer, *context_, model_.store);
  std::vector<double> losses;
  for (int64_t step = 0; step < 60; ++step) {
    steps.start(step, 0.02, 1.0 / 9);
    Tape tape(*context_, true, false, steps.random(9));
    const ops::LossResult loss = model_.loss(tape, ids_, targets_, steps.loss_scale());
    losses.push_back(loss.totals.as<double>()[1] / loss.totals.as<double>()[4]);
    tape.backward();
    steps.update(loss.totals);
  }
  EXPECT_GT(losses.front(), 1);
  EXPECT_LT(losses.back(), 0.2);
  EXPECT_EQ(steps.report().updates, 60);
}

}  // namespace
}  // namespace perceiver
