#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "kernels/elementwise.h"
#include "kernels/optimizer.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

using Values = std::vector<double>;

/// Parameters of every kind that the rules tell apart, one of them larger than a tile.
class Parameters {
 public:
  explicit Parameters(DType type, uint64_t seed = 1, int threads = 2)
      : context_(DeviceContext::cpu(threads)) {
    const Initialization random{Initializer::truncated_normal, 0.5, {}};
    variables_.resize(6);
    store_.declare(variables_[0], "token_embedding.weight", {11, 6}, random, ParameterUse::table);
    store_.declare(variables_[1], "query.learned", {1, 6}, random, ParameterUse::table);
    store_.declare_packed(variables_[2], {"q.weight", "k.weight"}, {7, 5}, random);
    store_.declare(variables_[3], "q.bias", {7}, random);
    store_.declare(variables_[4], "output.linear.weight", {130, 70}, {}, ParameterUse::output);
    store_.declare(variables_[5], "norm.scale", {70}, {Initializer::ones, 0, {}});
    store_.allocate(*context_, type);
    store_.initialize(seed);
    scalars_ = Tensor::zeros(*context_, DType::f64, {4});
  }

  ParameterStore& store() { return store_; }
  DeviceContext& context() { return *context_; }

  /// Gradients of step `step`, some of them zero.
  void draw_gradients(uint64_t step) {
    RandomStream random(5, RandomPurpose::initialization, step);
    for (const ParameterInfo& info : store_.infos()) {
      const Tensor gradient = store_.gradient(info);
      for (int64_t i = 0; i < gradient.elements(); ++i) {
        const double value = i % 5 == 4 ? 0 : random.uniform() - 0.4;
        if (gradient.dtype() == DType::f64) {
          gradient.as<double>()[i] = value;
        } else {
          gradient.as<float>()[i] = static_cast<float>(value);
        }
      }
    }
  }

  const kernels::StepScalars* scalars(double rate, double scale, int64_t update) {
    kernels::StepScalars scalars{};
    scalars.learning_rate = rate;
    scalars.gradient_scale = scale;
    scalars.update = static_cast<double>(update);
    scalars.finite = 1;
    *static_cast<kernels::StepScalars*>(scalars_.data()) = scalars;
    return static_cast<const kernels::StepScalars*>(scalars_.data());
  }

 private:
  std::shared_ptr<DeviceContext> context_;
  std::vector<Variable> variables_;
  ParameterStore store_;
  Tensor scalars_;
};

double root_mean_square(const Values& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / static_cast<double>(x.size()));
}

/// One parameter's update by the formulas as published.
class Reference {
 public:
  Reference(const OptimizerConfig& config, const ParameterInfo& info, Values start, bool matrix, bool decays)
      : config_(config),
        p_(std::move(start)),
        matrix_(matrix),
        decays_(decays),
        orthogonal_(info.name == "q.weight" || info.name == "k.weight") {
    first_.assign(p_.size(), 0), second_.assign(p_.size(), 0);
    rows_.assign(static_cast<size_t>(info.shape.rows()), 0);
    columns_.assign(static_cast<size_t>(info.shape.last()), 0);
  }

  const Values& values() const { return p_; }

  void update(const Values& gradient, double rate, double scale, int64_t t) {
    Values g = gradient;
    for (double& x : g) x *= scale;
    const double decay = decays_ ? config_.weight_decay : 0;
    switch (config_.type) {
      case OptimizerType::adam:
        for (size_t i = 0; i < g.size(); ++i) g[i] += decay * p_[i];
        step(adam_direction(g, t), rate);
        break;
      case OptimizerType::adamw:
        for (double& x : p_) x -= rate * decay * x;
        step(adam_direction(g, t), rate);
        break;
      case OptimizerType::sgd:
        step(sgd_direction(g, decay), rate);
        break;
      case OptimizerType::lamb: {
        Values u = adam_direction(g, t);
        for (size_t i = 0; i < u.size(); ++i) u[i] += decay * p_[i];
        const double norm_p = root_mean_square(p_), norm_u = root_mean_square(u);
        step(u, matrix_ && norm_p > 0 && norm_u > 0 ? rate * norm_p / norm_u : rate);
        break;
      }
      case OptimizerType::adafactor: {
        const Values u = adafactor_direction(g, t);
        for (double& x : p_) x -= rate * decay * x;
        step(u, rate / std::max(1.0, root_mean_square(u)));
        break;
      }
      case OptimizerType::muon:
        for (double& x : p_) x -= rate * decay * x;
        step(orthogonal_ ? muon_direction(g) : adam_direction(g, t), rate);
        break;
    }
  }

 private:
  void step(const Values& direction, double rate) {
    for (size_t i = 0; i < p_.size(); ++i) p_[i] -= rate * direction[i];
  }

  Values adam_direction(const Values& g, int64_t t) {
    Values u(g.size());
    const double c1 = 1 - std::pow(config_.beta1, t), c2 = 1 - std::pow(config_.beta2, t);
    for (size_t i = 0; i < g.size(); ++i) {
      first_[i] = config_.beta1 * first_[i] + (1 - config_.beta1) * g[i];
      second_[i] = config_.beta2 * second_[i] + (1 - config_.beta2) * g[i] * g[i];
      u[i] = (first_[i] / c1) / (std::sqrt(second_[i] / c2) + config_.epsilon);
    }
    return u;
  }

  Values sgd_direction(const Values& gradient, double decay) {
    Values u(gradient.size());
    for (size_t i = 0; i < u.size(); ++i) {
      const double g = gradient[i] + decay * p_[i];
      first_[i] = config_.momentum * first_[i] + g;
      u[i] = config_.nesterov ? g + config_.momentum * first_[i] : first_[i];
    }
    return u;
  }

  /// Algorithm 4: row and column sums R, C of the squared gradients; V = R C / sum(R).
  Values adafactor_direction(const Values& g, int64_t t) {
    const double decay = 1 - std::pow(static_cast<double>(t), -0.8);
    Values u(g.size());
    if (!matrix_) {
      for (size_t i = 0; i < g.size(); ++i) {
        second_[i] = decay * second_[i] + (1 - decay) * (g[i] * g[i] + 1e-30);
        u[i] = g[i] / std::sqrt(second_[i]);
      }
      return u;
    }
    Values row_sum(rows_.size(), 0), column_sum(columns_.size(), 0);
    for (size_t i = 0; i < g.size(); ++i) {
      row_sum[i / columns_.size()] += g[i] * g[i] + 1e-30;
      column_sum[i % columns_.size()] += g[i] * g[i] + 1e-30;
    }
    for (size_t r = 0; r < rows_.size(); ++r) rows_[r] = decay * rows_[r] + (1 - decay) * row_sum[r];
    for (size_t c = 0; c < columns_.size(); ++c)
      columns_[c] = decay * columns_[c] + (1 - decay) * column_sum[c];
    const double total = std::accumulate(rows_.begin(), rows_.end(), 0.0);
    for (size_t i = 0; i < g.size(); ++i)
      u[i] = g[i] / std::sqrt(rows_[i / columns_.size()] * columns_[i % columns_.size()] / total);
    return u;
  }

  /// Jordan et al. 2024, as published: always x xᵀ, here of few elements.
  Values muon_direction(const Values& g) {
    const size_t rows = rows_.size(), columns = columns_.size();
    Values x(g.size());
    for (size_t i = 0; i < g.size(); ++i) {
      first_[i] = 0.95 * first_[i] + g[i];
      x[i] = g[i] + 0.95 * first_[i];
    }
    const double norm = std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
    for (double& each : x) each /= norm + 1e-7;
    for (int i = 0; i < 5; ++i) {
      const Values a = product(x, transposed(x, rows, columns), rows, columns, rows);
      const Values ax = product(a, x, rows, rows, columns), aax = product(a, ax, rows, rows, columns);
      for (size_t e = 0; e < x.size(); ++e) x[e] = 3.4445 * x[e] - 4.7750 * ax[e] + 2.0315 * aax[e];
    }
    for (double& each : x) each *= 0.2 * std::sqrt(static_cast<double>(std::max(rows, columns)));
    return x;
  }

  static Values transposed(const Values& x, size_t rows, size_t columns) {
    Values y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i % columns * rows + i / columns] = x[i];
    return y;
  }

  /// [m, k] by [k, n].
  static Values product(const Values& a, const Values& b, size_t m, size_t k, size_t n) {
    Values c(m * n, 0);
    for (size_t i = 0; i < m * n; ++i)
      for (size_t j = 0; j < k; ++j) c[i] += a[i / n * k + j] * b[j * n + i % n];
    return c;
  }

  OptimizerConfig config_;
  Values p_, first_, second_, rows_, columns_;
  bool matrix_, decays_, orthogonal_;
};

struct Case {
  const char* name;
  OptimizerConfig config;
};

OptimizerConfig optimizer(OptimizerType type, double decay = 0, double momentum = 0.9,
                          bool nesterov = false) {
  OptimizerConfig config;
  config.type = type;
  config.weight_decay = decay;
  config.momentum = momentum;
  config.nesterov = nesterov;
  return config;
}

class EveryOptimizer : public testing::TestWithParam<Case> {};

TEST_P(EveryOptimizer, FollowsTheScalarFormulas) {
  Parameters parameters(DType::f64);
  const auto made = make_optimizer(GetParam().config, parameters.context(), parameters.store());
  // Named one by one, so that the rule itself is tested.
  const std::map<std::string, bool> decaying{{"token_embedding.weight", false},
                                             {"query.learned", false},
                                             {"q.weight", true},
                                             {"k.weight", true},
                                             {"q.bias", false},
                                             {"output.linear.weight", true},
                                             {"norm.scale", false}};
  std::vector<Reference> references;
  for (const ParameterInfo& info : parameters.store().infos())
    references.emplace_back(GetParam().config, info, parameters.store().value(info).to_host<double>(),
                            info.shape.rank() == 2, decaying.at(info.name));
  for (int64_t t = 1; t <= 6; ++t) {
    parameters.draw_gradients(static_cast<uint64_t>(t));
    const double rate = 0.01 * static_cast<double>(t), scale = t % 2 == 0 ? 0.3 : 1;
    made->update(0, parameters.scalars(rate, scale, t));
    for (size_t i = 0; i < references.size(); ++i) {
      const ParameterInfo& info = parameters.store().infos()[i];
      references[i].update(parameters.store().gradient(info).to_host<double>(), rate, scale, t);
      const Values got = parameters.store().value(info).to_host<double>();
      for (size_t e = 0; e < got.size(); ++e)
        ASSERT_NEAR(got[e], references[i].values()[e], 1e-11) << info.name << " " << e << " step " << t;
    }
  }
}

TEST_P(EveryOptimizer, GivesTheSameBitsWithAnyNumberOfThreads) {
  std::vector<float> results[2];
  for (int run = 0; run < 2; ++run) {
    Parameters parameters(DType::f32, 1, run == 0 ? 1 : 3);
    const auto made = make_optimizer(GetParam().config, parameters.context(), parameters.store());
    for (int64_t t = 1; t <= 3; ++t) {
      parameters.draw_gradients(static_cast<uint64_t>(t));
      made->update(0, parameters.scalars(0.01, 0.7, t));
    }
    results[run] = parameters.store().values().to_host<float>();
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_P(EveryOptimizer, ContinuesFromItsState) {
  Parameters parameters(DType::f32), copy(DType::f32, 2);
  const auto first = make_optimizer(GetParam().config, parameters.context(), parameters.store());
  const auto second = make_optimizer(GetParam().config, copy.context(), copy.store());
  for (int64_t t = 1; t <= 2; ++t) {
    parameters.draw_gradients(static_cast<uint64_t>(t));
    first->update(0, parameters.scalars(0.01, 1, t));
  }
  copy.store().values().copy_from_host(
      std::as_bytes(std::span<const float>(parameters.store().values().to_host<float>())));
  const std::vector<NamedTensor> from = first->state(), to = second->state();
  ASSERT_EQ(from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(from[i].name, to[i].name);
    to[i].tensor.copy_from_host(std::as_bytes(std::span<const float>(from[i].tensor.to_host<float>())));
  }
  for (Parameters* each : {&parameters, &copy}) each->draw_gradients(3);
  first->update(0, parameters.scalars(0.01, 1, 3));
  second->update(0, copy.scalars(0.01, 1, 3));
  EXPECT_EQ(parameters.store().values().to_host<float>(), copy.store().values().to_host<float>());
}

INSTANTIATE_TEST_SUITE_P(Optimizers, EveryOptimizer,
                         testing::Values(Case{"adam", optimizer(OptimizerType::adam)},
                                         Case{"adam_decay", optimizer(OptimizerType::adam, 0.1)},
                                         Case{"adamw", optimizer(OptimizerType::adamw, 0.1)},
                                         Case{"sgd_plain", optimizer(OptimizerType::sgd, 0.1, 0)},
                                         Case{"sgd_momentum", optimizer(OptimizerType::sgd, 0.1)},
                                         Case{"sgd_nesterov", optimizer(OptimizerType::sgd, 0, 0.8, true)},
                                         Case{"lamb", optimizer(OptimizerType::lamb)},
                                         Case{"lamb_decay", optimizer(OptimizerType::lamb, 0.1)},
                                         Case{"adafactor", optimizer(OptimizerType::adafactor)},
                                         Case{"adafactor_decay", optimizer(OptimizerType::adafactor, 0.1)},
                                         Case{"muon", optimizer(OptimizerType::muon)},
                                         Case{"muon_decay", optimizer(OptimizerType::muon, 0.1)}),
                         [](const auto& test) { return std::string(test.param.name); });

// The first update of Adam is -lr * sign(g), up to epsilon: its bias correction undoes both decays.
TEST(Optimizer, AdamsFirstUpdateIsTheSignOfTheGradient) {
  Parameters parameters(DType::f64);
  const Values before = parameters.store().value(parameters.store().infos()[0]).to_host<double>();
  const auto made = make_optimizer(optimizer(OptimizerType::adam), parameters.context(), parameters.store());
  parameters.draw_gradients(1);
  made->update(0, parameters.scalars(0.125, 1, 1));
  const ParameterInfo& info = parameters.store().infos()[0];
  const Values after = parameters.store().value(info).to_host<double>();
  const Values gradient = parameters.store().gradient(info).to_host<double>();
  for (size_t i = 0; i < after.size(); ++i) {
    const double sign = gradient[i] == 0 ? 0 : gradient[i] > 0 ? 1 : -1;
    EXPECT_NEAR(after[i], before[i] - 0.125 * sign, 1e-5);
  }
}

// 1 - 0.999 computed in float is wrong by one part in 10^5, and lasting: all of the moment is made of it.
TEST(Optimizer, AdamsMomentsBeginExactly) {
  Parameters parameters(DType::f32);
  const auto made = make_optimizer(optimizer(OptimizerType::adam), parameters.context(), parameters.store());
  parameters.draw_gradients(1);
  made->update(0, parameters.scalars(0.125, 1, 1));
  const auto gradient = parameters.store().gradient(parameters.store().infos()[0]).to_host<float>();
  const std::vector<NamedTensor> state = made->state();
  const double beta1 = optimizer(OptimizerType::adam).beta1, beta2 = optimizer(OptimizerType::adam).beta2;
  for (const NamedTensor& each : state) {
    if (!each.name.ends_with("/" + parameters.store().infos()[0].name)) continue;
    const bool second = each.name.find("second") != std::string::npos;
    const auto moment = each.tensor.to_host<float>();
    for (size_t i = 0; i < moment.size(); ++i) {
      const double g = static_cast<double>(gradient[i]);
      const double expected = second ? (1 - beta2) * g * g : (1 - beta1) * g;
      EXPECT_NEAR(static_cast<double>(moment[i]), expected, 3e-7 * std::abs(expected)) << each.name;
    }
  }
}

// A constant gradient of a rank-one pattern is factored exactly: |update| = lr everywhere.
TEST(Optimizer, AdafactorIsExactForRankOneGradients) {
  Parameters parameters(DType::f64);
  const ParameterInfo& info = *parameters.store().find("output.linear.weight");
  const Tensor gradient = parameters.store().gradient(info);
  for (int64_t i = 0; i < gradient.elements(); ++i)
    gradient.as<double>()[i] = static_cast<double>(1 + i / 70) * (static_cast<double>(i % 70) - 35.5);
  const auto made =
      make_optimizer(optimizer(OptimizerType::adafactor), parameters.context(), parameters.store());
  made->update(0, parameters.scalars(0.5, 1, 1));
  for (int64_t i = 0; i < gradient.elements(); ++i)
    ASSERT_NEAR(parameters.store().value(info).as<double>()[i], i % 70 < 36 ? 0.5 : -0.5, 1e-9);
}

TEST(Optimizer, LambMovesAMatrixByItsOwnNorm) {
  Parameters parameters(DType::f64);
  const ParameterInfo& info = *parameters.store().find("q.weight");
  const Values before = parameters.store().value(info).to_host<double>();
  const auto made = make_optimizer(optimizer(OptimizerType::lamb), parameters.context(), parameters.store());
  parameters.draw_gradients(1);
  made->update(0, parameters.scalars(0.25, 1, 1));
  Values moved = parameters.store().value(info).to_host<double>();
  for (size_t i = 0; i < moved.size(); ++i) moved[i] -= before[i];
  EXPECT_NEAR(root_mean_square(moved), 0.25 * root_mean_square(before), 1e-12);
}

TEST(Optimizer, PaddingBetweenParametersStaysZero) {
  Parameters parameters(DType::f32);
  const auto made =
      make_optimizer(optimizer(OptimizerType::adamw, 0.1), parameters.context(), parameters.store());
  parameters.draw_gradients(1);
  made->update(0, parameters.scalars(0.1, 1, 1));
  const std::vector<float> values = parameters.store().values().to_host<float>();
  std::vector<bool> used(values.size());
  for (const ParameterInfo& info : parameters.store().infos())
    std::fill_n(used.begin() + info.offset, info.elements(), true);
  int64_t padding = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (used[i]) continue;
    ++padding;
    EXPECT_EQ(values[i], 0);
  }
  EXPECT_GT(padding, 0);
}

}  // namespace
}  // namespace perceiver
