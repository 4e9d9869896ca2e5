// perceiver bench: speed on this machine, as JSON.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "config/load.h"
#include "config/save.h"
#include "model/precision.h"
#include "perceiver/experimental/random.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/ranks.h"
#include "tools/validators.h"
#include "train/connect_ranks.h"

namespace perceiver::program {
namespace {

struct BenchCommand {
  std::string config;
  std::vector<std::string> set;
  int64_t steps = 10, warmup = 3;
};

Batch random_batch(const ModelConfig& model, int64_t size) {
  Batch batch;
  batch.resize(size, model.context_length, model.axes());
  RandomStream random(0, RandomPurpose::batch);
  const auto token = [&] {
    return static_cast<int32_t>(3 + random.below(static_cast<uint64_t>(model.vocabulary - 3)));
  };
  std::generate(batch.tokens.begin(), batch.tokens.end(), token);
  std::generate(batch.targets.begin(), batch.targets.end(), token);
  for (int64_t i = 0; i < size * model.context_length; ++i)
    for (int64_t a = 0; a < model.axes(); ++a) {
      const int64_t rows = model.position_sizes.empty() ? model.context_length + 2
                                                        : model.position_sizes[static_cast<size_t>(a)];
      batch.positions[static_cast<size_t>(i * model.axes() + a)] =
          static_cast<int32_t>((i % model.context_length + 1) % rows);
    }
  std::fill(batch.lengths.begin(), batch.lengths.end(), static_cast<int32_t>(model.context_length));
  batch.preceding.assign(static_cast<size_t>(size), model.memory_length);
  return batch;
}

/// Finish time of each of `steps` steps, in seconds, with as many in flight as the learner allows.
std::vector<double> finish_times(Learner& learner, const Batch& batch, int64_t steps) {
  std::vector<double> times;
  const auto start = std::chrono::steady_clock::now();
  for (int64_t step = 0; static_cast<int64_t>(times.size()) < steps;) {
    while (step < steps && learner.in_flight() < learner.capacity()) learner.start(step++, batch);
    learner.finish();
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return times;
}

int run_train(const BenchCommand& options, const Globals& globals) {
  const Config config = load_config(options.config, options.set);
  const int threads = globals.threads > 0 ? globals.threads : static_cast<int>(config.threads);
  const std::shared_ptr<World> world = open_world(globals);
  const auto context = DeviceContext::open(globals.device.empty() ? config.device : globals.device, threads,
                                           world ? world->gpu() : 0);
  const DType type = apply_precision(config.train.precision, *context);
  PerceiverAR model(config.model, context, type);
  model.parameters().initialize(config.train.seed);
  const LearnerRanks ranks = connect_ranks(world.get(), config, *context);
  Learner learner(config, model, ranks);
  const Batch batch = random_batch(config.model, ranks.share.size());
  const std::vector<double> finished = finish_times(learner, batch, options.warmup + options.steps);
  std::vector<double> seconds;
  for (size_t step = static_cast<size_t>(options.warmup); step < finished.size(); ++step)
    seconds.push_back(finished[step] - (step == 0 ? 0 : finished[step - 1]));
  if (world && !world->leads()) return 0;
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const MemoryStatistics memory = context->statistics();
  const double examples = static_cast<double>(config.train.batch);
  const StepWork work = step_work(config, type);
  const nlohmann::ordered_json out{
      {"benchmark", "train"},
      {"config", options.config},
      {"device", context->name()},
      {"threads", context->threads()},
      {"ranks", world ? world->size() : 1},
      {"communicator", ranks.all ? ranks.all->name() : "none"},
      {"shard", config_to_json(config)["train"]["shard"]},
      {"context_shards", config.train.context_shards},
      {"precision", precision_name(config.train.precision, type)},
      {"parameters", model.parameters().count()},
      {"steps", options.steps},
      {"step_ms", {{"median", median * 1e3}, {"min", seconds.front() * 1e3}, {"max", seconds.back() * 1e3}}},
      {"latent_tokens_per_second", examples * static_cast<double>(config.model.latents) / median},
      {"input_tokens_per_second", examples * static_cast<double>(config.model.context_length) / median},
      {"context_projection", work.path},
      {"step_gflop", work.operations / 1e9},
      {"executed_gflop", work.executed / 1e9},
      {"tflops", work.operations / median / 1e12},
      {"executed_tflops", work.executed / median / 1e12},
      {"peak_allocated_mib", static_cast<double>(memory.peak_bytes) / (1 << 20)},
      {"peak_resident_mib", static_cast<double>(usage.ru_maxrss) / 1024}};
  std::printf("%s\n", out.dump(2).c_str());
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Globals& globals, Action& action) {
  auto options = std::make_shared<BenchCommand>();
  CLI::App* bench = app.add_subcommand("bench", "Measure performance on this machine");
  bench->require_subcommand(1);
  bench->footer(R"(Examples:
  perceiver bench train --config configs/quickstart.yaml
  perceiver bench decode --checkpoint runs/book)");
  CLI::App* train = bench->add_subcommand("train", "Report training throughput on random tokens, as JSON");
  train->add_option("--config", options->config, "Configuration (YAML)")->type_name(kPath)->required();
  train->add_option("--set", options->set, "Override a key: section.key=value")
      ->take_all()
      ->type_name(kKeyValue);
  train->add_option("--steps", options->steps, "Timed steps")->check(at_least(1))->capture_default_str();
  train->add_option("--warmup", options->warmup, "Untimed steps before them")
      ->check(at_least(0))
      ->capture_default_str();
  train->footer(R"(Examples:
  perceiver bench train --config configs/quickstart.yaml
  perceiver bench train --config configs/quickstart.yaml --set train.batch=8 --steps 20)");
  train->callback([options, &globals, &action] {
    action = [options, &globals] { return run_train(*options, globals); };
  });
  add_bench_attention(*bench, globals, action);
  add_bench_projection(*bench, globals, action);
  add_bench_decode(*bench, globals, action);
}

}  // namespace perceiver::program
