// Training over a communicator of one rank, NCCL's, must be training without one: the same losses and
// weights, recorded as a graph or not.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "distributed/nccl.h"
#include "model/precision.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/gpu.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

using testing::gpu;

constexpr int64_t kSteps = 6;

Config gpu_config() {
  Config config = tiny_config();
  config.device = "cuda";
  config.train.precision = Precision::bfloat16;
  config.train.batch = 6;
  config.train.micro_batches = 2;
  config.train.ema_decay = 0.9;
  config.model.input_channels = 64;
  config.model.layers = 4;
  config.model.residual_dropout = 0.1;
  config.model.context_dropout = 0.2;
  config.model.context_projection = ContextProjection::table;  // reads unrounded weights
  config.model.extra_cross_attention_after = {1};
  config.optimizer.weight_decay = 0.1;
  config.optimizer.clip_norm = 0;  // a norm's last bit depends on the buckets
  return config;
}

struct Outcome {
  std::vector<double> losses, values, average;
  int64_t allocations = 0;
};

std::shared_ptr<Communicator> one_rank(DeviceContext& context) {
  return nccl::communicator(
      context, 0, 1, [](const std::string& mine) { return std::vector<std::string>{mine}; }, true);
}

Outcome train_steps(const Config& config, bool communicates) {
  const auto context = DeviceContext::open(config.device, 2);
  PerceiverAR model(config.model, context, apply_precision(config.train.precision, *context));
  model.parameters().initialize(config.train.seed);
  LearnerRanks ranks{.share = share_of(config.train.batch, config.train.micro_batches),
                     .bucket_elements = 20000};
  if (communicates) ranks.all = one_rank(*context);
  Learner learner(config, model, ranks);
  const auto data = open_dataset(config.data);
  Loader loader(*data, Split::train, config.model, ranks.share, config.train.seed, 0);
  Outcome outcome;
  const auto finish = [&] {
    const StepReport report = learner.finish();
    EXPECT_TRUE(report.finite) << report.offender;
    EXPECT_GT(report.sums.targets, 0);
    outcome.losses.push_back(report.sums.loss);
  };
  Batch batch;
  int64_t before = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    if (learner.in_flight() == learner.capacity()) finish();
    loader.next(batch);
    learner.start(step, batch);
    if (step == 2) before = context->statistics().system_allocations;
  }
  while (learner.in_flight() > 0) finish();
  outcome.allocations = context->statistics().system_allocations - before;
  {
    const AveragedWeights averaged(learner);  // and back
  }
  outcome.values = host_doubles(learner.collect_values());
  outcome.average = host_doubles(learner.collect_average());
  return outcome;
}

TEST(RanksGpu, OneRankOverNcclIsTrainingAlone) {
  SKIP_WITHOUT_GPU();
  if (!nccl::obstacle().empty()) GTEST_SKIP() << nccl::obstacle();
  for (const bool graph : {false, true}) {
    for (const Sharding shard : {Sharding::none, Sharding::optimizer, Sharding::gradients}) {
      SCOPED_TRACE(fmt::format("graph {}, shard {}", graph, static_cast<int>(shard)));
      Config config = gpu_config();
      config.train.cuda_graph = graph;
      config.train.shard = shard;
      const Outcome alone = train_steps(config, false), rank = train_steps(config, true);
      if (shard == Sharding::gradients) {  // adds micro-batches in another order than a product does
        for (size_t i = 0; i < alone.losses.size(); ++i)
          EXPECT_NEAR(rank.losses[i], alone.losses[i], 1e-3 * alone.losses[i]);
      } else {
        EXPECT_EQ(rank.losses, alone.losses);
        EXPECT_EQ(rank.values, alone.values);
        EXPECT_EQ(rank.average, alone.average);
      }
      EXPECT_EQ(rank.allocations, 0);
    }
  }
}

TEST(RanksGpu, CollectivesOfOneRankKeepWhatTheyAreGiven) {
  SKIP_WITHOUT_GPU();
  if (!nccl::obstacle().empty()) GTEST_SKIP() << nccl::obstacle();
  const auto context = gpu();
  const auto ranks = one_rank(*context);
  EXPECT_TRUE(ranks->recordable());
  std::vector<float> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const Tensor x = Tensor::from_host(*context, {1000}, std::span<const float>(values));
  ranks->all_reduce(x, Order::beside);
  ranks->reduce_scatter(x, Order::beside);
  ranks->join();
  ranks->all_gather(x);
  ranks->split(3)->all_reduce(x);
  EXPECT_EQ(x.to_host<float>(), values);
}

}  // namespace
}  // namespace perceiver
