// Finite differences against the hand-written backward, in float64 on the CPU.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "perceiver/experimental/tape.h"

namespace perceiver::testing {

/// A CPU context shared by a test binary's cases.
inline DeviceContext& cpu() {
  static const std::shared_ptr<DeviceContext> context = DeviceContext::cpu(2);
  return *context;
}

/// Standard normal values times `scale`.
inline Tensor random_tensor(Shape shape, uint32_t seed, double scale = 1, double shift = 0,
                            DType type = DType::f64) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(shift, scale);
  const auto fill = [&]<typename T>() {
    std::vector<T> values(static_cast<size_t>(shape.elements()));
    for (T& value : values) value = static_cast<T>(normal(generator));
    return Tensor::from_host<T>(cpu(), shape, values);
  };
  return type == DType::f64 ? fill.operator()<double>() : fill.operator()<float>();
}

/// Runs `function` on fresh leaves of `values`, returns sum(weights * output) and, when recording, the
/// leaves' gradients.
using Function = std::function<Variable(Tape&, const std::vector<Variable>&)>;

inline double weighted_sum(const Tensor& output, const std::vector<double>& weights) {
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) sum += weights[i] * output.as<double>()[i];
  return sum;
}

/// Checks every element of every input's gradient (or `samples` of each) of a random linear functional of the
/// output. In-place operations must work on a value the function itself computed.
inline void check_gradients(const Function& function, const std::vector<Tensor>& inputs,
                            double tolerance = 1e-6, RandomKey key = {7, 3, 0, 0}, bool training = true,
                            int64_t samples = 40) {
  key.device_step = &key.step;
  Tape tape(cpu(), true, training, key);
  std::vector<Variable> leaves;
  for (const Tensor& input : inputs) leaves.push_back(Tape::leaf(input));
  const Variable output = function(tape, leaves);
  const Tensor weights = random_tensor(output.shape(), 99);
  const std::vector<double> host_weights = weights.to_host<double>();
  const GradientTarget seed = tape.target(output);
  seed.tensor.copy_from_host(std::as_bytes(std::span<const double>(host_weights)));
  tape.backward();

  const auto evaluate = [&] {
    Tape plain(cpu(), false, training, key);
    std::vector<Variable> constants;
    for (const Tensor& input : inputs) constants.push_back(Tape::constant(input));
    return weighted_sum(function(plain, constants).value, host_weights);
  };
  std::mt19937 generator(5);
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_TRUE(leaves[i].gradient->written) << "input " << i << " has no gradient";
    double* x = inputs[i].as<double>();
    const double* gradient = leaves[i].gradient->tensor.as<double>();
    const int64_t elements = inputs[i].elements();
    for (int64_t s = 0; s < std::min(samples, elements); ++s) {
      const int64_t e =
          elements <= samples ? s : static_cast<int64_t>(generator() % static_cast<uint64_t>(elements));
      const double kept = x[e], h = 1e-5 * std::max(1.0, std::abs(kept));
      x[e] = kept + h;
      const double above = evaluate();
      x[e] = kept - h;
      const double below = evaluate();
      x[e] = kept;
      const double expected = (above - below) / (2 * h);
      EXPECT_NEAR(gradient[e], expected, tolerance * std::max(1.0, std::abs(expected)))
          << "input " << i << " element " << e;
    }
  }
}

}  // namespace perceiver::testing
