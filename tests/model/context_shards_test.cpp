// A context shared by ranks: the same losses, gradients and logits as on one rank, bytes on the wire that do
// not depend on the context's length, and memory that falls with the number of ranks.
#include <gtest/gtest.h>

#include <utility>

#include "model/projection.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/small_model.h"
#include "tests/support/thread_world.h"

namespace perceiver {
namespace {

using testing::random_batch;
using testing::small_model;

struct Case {
  const char* name;
  ModelConfig config = small_model();
  Recompute recompute = Recompute::none;
  int64_t latents = 0;
};

/// The case of `name`, changed by `change`.
template <typename Change>
Case changed(const char* name, Change change) {
  Case result{name};
  result.config.context_length = 19;
  change(result);
  return result;
}

void absolute(Case& c, PositionTable table) {
  c.config.position_encoding = PositionEncoding::absolute;
  c.config.position_table = table;
  c.config.position_sizes = {21, 3};
}

std::vector<Case> cases() {
  return {
      changed("rotary", [](Case&) {}),
      changed("dropped context",
              [](Case& c) {
                c.config.context_dropout = 0.4;
                c.config.latent_dropout = 0.3;
              }),
      changed("a choice of columns",
              [](Case& c) {
                c.config.train_input_positions = 7;
                c.config.context_dropout = 0.2;
              }),
      changed("several latents a position", [](Case& c) { c.config.latents_per_position = 2; }),
      changed("learned queries",
              [](Case& c) {
                c.config.query_style = QueryStyle::learned;
                c.config.query_residual = false;
              }),
      changed("shared learned query",
              [](Case& c) {
                c.config.query_style = QueryStyle::learned;
                c.config.shared_learned_query = true;
              }),
      changed("positions from the end",
              [](Case& c) { c.config.position_source = PositionSource::terminal_relative_negated; }),
      changed("learned positions", [](Case& c) { absolute(c, PositionTable::learned); }),
      changed("sinusoidal positions",
              [](Case& c) {
                absolute(c, PositionTable::sinusoidal);
                c.config.latents_per_position = 2;
              }),
      changed("extra cross-attentions",
              [](Case& c) {
                c.config.layers = 3;
                c.config.extra_cross_attention_after = {2, 0};
                c.config.context_dropout = 0.2;
              }),
      changed("extra cross-attentions without residuals",
              [](Case& c) {
                absolute(c, PositionTable::learned);
                c.config.query_residual = false;
                c.config.extra_cross_attention_after = {0, 1};
              }),
      changed("blocks recomputed",
              [](Case& c) {
                c.recompute = Recompute::block;
                c.config.extra_cross_attention_after = {0};
              }),
      changed("branches recomputed",
              [](Case& c) {
                c.recompute = Recompute::attention_mlp;
                c.config.extra_cross_attention_after = {1};
              }),
      changed("other latents", [](Case& c) { c.latents = 9; }),
      changed("as many latents as columns", [](Case& c) { c.latents = 19; }),
  };
}

/// Examples of 19, 1, 3, 12 and 19 tokens: some have fewer than there are ranks, or than latents.
Batch ragged_batch(const ModelConfig& config) {
  Batch batch = random_batch(config, 5, 4, false);
  const int32_t lengths[] = {19, 1, 3, 12, 19};
  for (int64_t b = 0; b < batch.size; ++b) {
    batch.lengths[b] = lengths[b];
    for (int64_t n = lengths[b]; n < batch.length; ++n) {
      batch.tokens[b * batch.length + n] = batch.targets[b * batch.length + n] = 0;
      for (int64_t a = 0; a < batch.axes; ++a) batch.positions[(b * batch.length + n) * batch.axes + a] = 0;
    }
  }
  return batch;
}

PassOptions shared_by(Communicator* group, bool training = false) {
  PassOptions options;
  options.training = training;
  options.context_group = group;
  return options;
}

struct Outcome {
  double loss = 0;
  std::vector<double> gradients, logits;
};

/// Loss and gradients of a training pass, and logits of another, on `group`, null: one rank.
Outcome compute(const Case& c, Communicator* group) {
  PerceiverAR model(c.config, DeviceContext::cpu(1), DType::f64);
  model.parameters().initialize(1);
  const Batch batch = ragged_batch(c.config);
  PassOptions options = shared_by(group, true);
  options.latents = c.latents;
  options.random.seed = 3;
  options.random.step = 5;
  options.random.first_example = 2;
  options.random.device_step = &options.random.step;
  const ModelInputs inputs = model.prepare(batch, options);
  model.parameters().start_gradients();
  Tape tape(model.context(), true, true, options.random);
  const double scale = group == nullptr ? 1 : 1.0 / group->size();
  ops::LossOptions loss_options;
  loss_options.label_smoothing = 0.1;
  loss_options.z_loss = 1e-2;
  loss_options.gradient_scale = &scale;
  const ops::LossResult loss = model.loss(tape, inputs, loss_options, c.recompute);
  tape.backward();
  model.parameters().finish_gradients();
  options.training = false;
  const ModelInputs reading = model.prepare(batch, options);
  return {loss.totals.as<double>()[0], host_doubles(model.parameters().gradients()),
          host_doubles(model.logits(reading))};
}

std::vector<Outcome> compute_on(int ranks, const Case& c) {
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](ThreadWorld& world) {
    const auto group = world.communicator(testing::cpu(), true);
    outcomes[static_cast<size_t>(world.rank())] = compute(c, group.get());
  });
  return outcomes;
}

double norm(const std::vector<double>& x, int64_t first, int64_t count) {
  double sum = 0;
  for (int64_t i = first; i < first + count; ++i) sum = std::hypot(sum, x[static_cast<size_t>(i)]);
  return sum;
}

/// Each parameter's gradient, summed over the ranks, to 1e-12 of its size. Gradients that vanish by symmetry
/// are rounding noise.
void expect_gradients(const Case& c, const std::vector<Outcome>& outcomes, const std::vector<double>& whole) {
  PerceiverAR model(c.config, DeviceContext::cpu(1), DType::f64);
  std::vector<double> difference = whole;
  for (const Outcome& outcome : outcomes)
    for (size_t i = 0; i < whole.size(); ++i) difference[i] -= outcome.gradients[i];
  const double all = norm(whole, 0, static_cast<int64_t>(whole.size()));
  for (const ParameterInfo& info : model.parameters().infos())
    EXPECT_LE(norm(difference, info.offset, info.elements()),
              1e-12 * std::max(norm(whole, info.offset, info.elements()), 1e-3 * all))
        << info.name;
}

void expect_same(const Case& c) {
  const Outcome whole = compute(c, nullptr);
  const auto logits = static_cast<int64_t>(whole.logits.size());
  for (const int ranks : {1, 2, 3, 4}) {
    SCOPED_TRACE(ranks);
    const std::vector<Outcome> outcomes = compute_on(ranks, c);
    for (const Outcome& outcome : outcomes) {
      EXPECT_EQ(outcome.loss, outcomes[0].loss);
      EXPECT_EQ(outcome.logits, outcomes[0].logits);
    }
    EXPECT_NEAR(outcomes[0].loss, whole.loss, 1e-12 * whole.loss);
    std::vector<double> difference = whole.logits;
    for (size_t i = 0; i < difference.size(); ++i) difference[i] -= outcomes[0].logits[i];
    EXPECT_LE(norm(difference, 0, logits), 1e-12 * norm(whole.logits, 0, logits));
    expect_gradients(c, outcomes, whole.gradients);
    if (ranks == 1) {
      EXPECT_EQ(outcomes[0].loss, whole.loss);
      EXPECT_EQ(outcomes[0].gradients, whole.gradients);
    }
  }
}

TEST(ContextShards, LossesGradientsAndLogitsAreThoseOfOneRank) {
  for (Case c : cases())
    for (const ContextProjection projection : {ContextProjection::direct, ContextProjection::table}) {
      SCOPED_TRACE(c.name);
      c.config.context_projection = projection;
      expect_same(c);
    }
}

TEST(ContextShards, ATransformerHasNoContextToShare) {
  Case c{"transformer"};
  c.config.type = ModelType::transformer;
  c.config.context_length = 19;
  const Outcome whole = compute(c, nullptr);
  EXPECT_EQ(compute_on(2, c)[1].logits, whole.logits);
}

/// Bytes that all ranks together receive in a pass without gradients.
int64_t bytes_of_pass(int ranks, const ModelConfig& config) {
  int64_t bytes = 0;
  run_ranks(ranks, [&](ThreadWorld& world) {
    const auto group = world.communicator(testing::cpu(), true);
    PerceiverAR model(config, DeviceContext::cpu(1), DType::f64);
    model.parameters().initialize(1);
    model.logits(model.prepare(random_batch(config, 3, 4), shared_by(group.get())));
    world.gather("", "the end");
    if (world.leads()) bytes = static_cast<const ThreadCommunicator&>(*group).group().bytes;
  });
  return bytes;
}

TEST(ContextShards, BytesOnTheWireDoNotDependOnTheContext) {
  ModelConfig config = small_model();
  config.extra_cross_attention_after = {0};
  for (const int64_t context : {12, 300})
    for (const int ranks : {2, 4}) {
      config.context_length = context;
      // For each cross-attention and rank: what the others computed, a result and a log-sum-exp of each head.
      const int64_t rows = 3 * config.latents, part = rows * (config.z_channels() + config.cross_heads) * 8;
      EXPECT_EQ(bytes_of_pass(ranks, config), 2 * ranks * (ranks - 1) * part) << context << " on " << ranks;
    }
}

/// Most bytes in use during a training pass, without the model.
int64_t peak_bytes(int ranks, const ModelConfig& config) {
  std::vector<int64_t> peaks(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](ThreadWorld& world) {
    const auto group = world.communicator(testing::cpu(), true);
    PerceiverAR model(config, DeviceContext::cpu(1), DType::f32);
    model.parameters().initialize(1);
    const int64_t before = model.context().statistics().live_bytes;
    const ModelInputs inputs = model.prepare(random_batch(config, 1, 4, false), shared_by(group.get(), true));
    model.parameters().start_gradients();
    Tape tape(model.context(), true, false);
    model.loss(tape, inputs, {}, Recompute::none);
    tape.backward();
    peaks[static_cast<size_t>(world.rank())] = model.context().statistics().peak_bytes - before;
  });
  return *std::max_element(peaks.begin(), peaks.end());
}

TEST(ContextShards, MemoryFallsWithTheNumberOfRanks) {
  ModelConfig config = small_model();
  config.context_length = 16384;
  config.residual_dropout = 0;
  for (const ContextProjection projection : {ContextProjection::direct, ContextProjection::table}) {
    config.context_projection = projection;
    const auto alone = static_cast<double>(peak_bytes(1, config));
    // What does not depend on the context is small here.
    EXPECT_LT(static_cast<double>(peak_bytes(2, config)), 0.52 * alone);
    EXPECT_LT(static_cast<double>(peak_bytes(4, config)), 0.27 * alone);
  }
}

TEST(ContextShards, WhatARankComputesDecidesHowItProjects) {
  // The tokens of all ranks together would repay projecting the table; those of one do not.
  ModelConfig config = small_model();
  config.context_length = 64;
  config.vocabulary = 64;
  PerceiverAR model(config, DeviceContext::cpu(1), DType::f64);
  ASSERT_TRUE(projects_tables(config, 2 * 64, DType::f64));
  ASSERT_FALSE(projects_tables(config, 2 * 16, DType::f64));
  run_ranks(4, [&](ThreadWorld& world) {
    const auto group = world.communicator(testing::cpu(), true);
    const ModelInputs inputs = model.prepare(random_batch(config, 2, 4, false), shared_by(group.get()));
    EXPECT_EQ(inputs.batch * inputs.columns, 2 * 16);
  });
}

}  // namespace
}  // namespace perceiver
