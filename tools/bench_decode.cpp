// perceiver bench decode: decoding throughput, and the fraction of the memory bandwidth it achieves, as JSON.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/worker_pool.h"
#include "config/load.h"
#include "generate/generate.h"
#include "model/precision.h"
#include "perceiver/experimental/random.h"
#include "perceiver/special_tokens.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/validators.h"

namespace perceiver::program {
namespace {

constexpr double kGpuBandwidth = 3.0e12;  // copy bandwidth of an H100, bytes a second (docs/benchmarks)

struct DecodeCommand {
  std::string config, checkpoint;
  std::vector<std::string> set;
  std::vector<int64_t> batches{1};
  int64_t context = 0, tokens = 64;
  Weights weights = Weights::automatic;
  EngineOptions engine;
};

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The sum of the words, many side by side: no addition waits for another, so that memory sets the pace.
uint64_t sum_of(const uint64_t* words, int64_t count) {
  typedef uint64_t Vector __attribute__((vector_size(32)));
  constexpr int64_t kWidth = sizeof(Vector) / sizeof(uint64_t), kVectors = 4;
  Vector sums[kVectors] = {};
  for (int64_t i = 0; i + kVectors * kWidth <= count; i += kVectors * kWidth)
    for (int64_t v = 0; v < kVectors; ++v) {
      Vector some;
      std::memcpy(&some, words + i + v * kWidth, sizeof some);
      sums[v] += some;
    }
  const Vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return all[0] + all[1] + all[2] + all[3];
}

/// Best read bandwidth of all threads together, bytes a second: the bound for decoding on the CPU.
double read_bandwidth(WorkerPool& workers) {
  constexpr int64_t kParts = 256, kWords = int64_t{1} << 26;  // 512 MiB, more than any cache
  std::vector<uint64_t> words(static_cast<size_t>(kWords), 1);
  double best = 0;
  volatile uint64_t sink = 0;
  for (int repeat = 0; repeat < 7; ++repeat) {
    const auto start = Clock::now();
    std::atomic<uint64_t> sum = 0;
    workers.run(kParts, [&](int64_t part) {
      sum += sum_of(words.data() + part * (kWords / kParts), kWords / kParts);
    });
    sink = sink + sum;
    best = std::max(best, static_cast<double>(kWords) * sizeof(uint64_t) / seconds_since(start));
  }
  return best;
}

std::unique_ptr<PerceiverAR> open_model(const DecodeCommand& options, const Globals& globals) {
  if (!options.checkpoint.empty()) return open_checkpoint(options.checkpoint, globals, options.weights).model;
  const Config config = load_config(options.config, options.set);
  const int threads = globals.threads > 0 ? globals.threads : static_cast<int>(config.threads);
  const auto context = DeviceContext::open(globals.device.empty() ? config.device : globals.device, threads);
  const DType type = apply_precision(config.train.precision, *context);
  auto model = std::make_unique<PerceiverAR>(config.model, context, type);
  model->parameters().initialize(config.train.seed);
  model->set_weights(options.weights);
  return model;
}

/// Bytes of weights that a step reads: all vectors and linear layers, except the projections of the context
/// if the new token's keys and values come from their table.
double weight_bytes(const Engine& engine) {
  const PerceiverAR& model = engine.model();
  const auto element = static_cast<int64_t>(size_of(model.type()));
  const DecodeCaches& caches = engine.caches();
  // The fused step projects the new token, even if there are tables besides its cache.
  const bool projects = !caches.context_table || (engine.fused() && !caches.by_table());
  int64_t bytes = model.linear_bytes(), matrices = 0, projections = 0;
  for (const ParameterInfo& info : model.parameters().infos()) {
    const bool in_table = !projects && info.name.starts_with("cross.") &&
                          (info.name.find("attention.k.weight") != std::string::npos ||
                           info.name.find("attention.v.weight") != std::string::npos);
    if (info.shape.rank() == 1) bytes += info.elements() * element;
    if (info.shape.rank() == 2 && info.name.find("embedding") == std::string::npos)
      matrices += info.elements();
    if (in_table) projections += info.elements();
  }
  return static_cast<double>(bytes) - static_cast<double>(model.linear_bytes()) *
                                          static_cast<double>(projections) / static_cast<double>(matrices);
}

/// Bytes of caches that a step of `slots` sequences reads, each filled to `context` tokens. Shared data
/// counts once: the table, and the angles of the context's positions.
double cache_bytes(const Engine& engine, int64_t context, int64_t slots) {
  const DecodeCaches& caches = engine.caches();
  const auto rows = static_cast<double>(context), sequences = static_cast<double>(slots);
  const Shape& self = caches.self_kv.shape();
  const auto element = static_cast<double>(size_of(caches.self_kv.dtype()));
  double bytes = sequences * element * static_cast<double>(self[0] * self[2] * self[3]);
  if (caches.by_table()) {
    const double wide = static_cast<double>(size_of(accumulation_type(engine.model().type())));
    bytes += static_cast<double>(caches.context_table.bytes()) + sequences * 2 * sizeof(int32_t) * rows +
             2 * wide * rows * static_cast<double>(caches.cross_rotary.bands);
  } else if (caches.context_kv) {
    bytes += sequences * element * rows *
             static_cast<double>(caches.context_kv.shape()[0] * caches.context_kv.shape()[3]);
  }
  return bytes;
}

/// Bytes allocated for the context.
size_t context_bytes(const DecodeCaches& caches) {
  size_t bytes = 0;
  for (const Tensor& tensor :
       {caches.context_kv, caches.context_table, caches.context_tokens, caches.context_positions})
    if (tensor) bytes += tensor.bytes();
  return bytes;
}

std::vector<int32_t> random_prompt(int64_t length, int64_t vocabulary, uint32_t number) {
  RandomStream random(0, RandomPurpose::batch, 0, number);
  std::vector<int32_t> tokens{sos_token};
  while (static_cast<int64_t>(tokens.size()) < length)
    tokens.push_back(static_cast<int32_t>(
        special_tokens +
        static_cast<int64_t>(random.below(static_cast<uint64_t>(vocabulary - special_tokens)))));
  return tokens;
}

/// One pass over a prompt of `length` tokens in each of the first `count` slots; seconds.
double fill(Engine& engine, int64_t count, int64_t length) {
  const auto start = Clock::now();
  for (int64_t s = 0; s < count; ++s) {
    Sequence sequence;
    sequence.tokens = random_prompt(length, engine.model().config().vocabulary, static_cast<uint32_t>(s));
    sequence.settings = sampling_parameters({}, static_cast<uint32_t>(s), false);
    engine.admit(s, std::move(sequence));
  }
  engine.compute();
  engine.model().context().synchronize();
  return seconds_since(start);
}

nlohmann::ordered_json measure(const PerceiverAR& model, const DecodeCommand& options, int64_t batch,
                               double bandwidth) {
  DeviceContext& context = model.context();
  const ModelConfig& config = model.config();
  EngineOptions engine_options = options.engine;
  engine_options.slots = batch;
  // A stream keeps the latents full: all timed steps cost the same.
  if (engine_options.policy == GenerationPolicy::automatic) engine_options.policy = GenerationPolicy::stream;
  context.reset_peak();
  Engine engine(model, engine_options);
  check_refill(options.engine, engine.options());
  const int64_t length =
      options.context > 0 ? std::min(options.context, config.context_length) : config.context_length;
  fill(engine, 1, length);  // warms up
  engine.release(0);
  const double prefill = fill(engine, batch, length);

  std::vector<double> times;
  for (int64_t step = 0; step < options.tokens + 8; ++step) {  // the first 8 warm up and record
    const auto begin = Clock::now();
    engine.step();
    if (engine.in_flight() >= engine.depth()) engine.collect();
    times.push_back(seconds_since(begin));
  }
  while (engine.in_flight() > 0) engine.collect();
  times.erase(times.begin(), times.begin() + 8);
  double total = 0;
  for (const double each : times) total += each;
  const double step = total / static_cast<double>(times.size());
  std::sort(times.begin(), times.end());
  const double caches = cache_bytes(engine, length, batch), bytes = weight_bytes(engine) + caches;
  const double bound = bytes / bandwidth;
  return {{"batch", batch},
          {"context", length},
          {"latents", engine.options().latents},
          {"context_kept_as", engine.caches().by_table() ? "tokens" : "keys and values"},
          {"kv_cache", name_of(engine.caches().self_kv.dtype())},
          {"fused", engine.fused()},
          {"us_per_step", step * 1e6},
          {"us_per_step_median", times[times.size() / 2] * 1e6},
          {"tokens_per_second", static_cast<double>(batch) / step},
          {"us_per_token", step / static_cast<double>(batch) * 1e6},
          {"weights_mb", weight_bytes(engine) / 1e6},
          {"caches_mb", caches / 1e6},
          {"bound_us", bound * 1e6},
          {"fraction", bound / step},
          {"prefill_tokens_per_second", static_cast<double>(batch * length) / prefill},
          {"prefill_ms", prefill * 1e3},
          {"context_allocated_mib", static_cast<double>(context_bytes(engine.caches())) / (1 << 20)},
          {"caches_allocated_mib", static_cast<double>(engine.caches().bytes()) / (1 << 20)},
          {"peak_allocated_mib", static_cast<double>(context.statistics().peak_bytes) / (1 << 20)}};
}

int run(const DecodeCommand& options, const Globals& globals) {
  if (options.config.empty() == options.checkpoint.empty())
    throw_usage("bench decode needs either --config or --checkpoint");
  if (!options.set.empty() && options.config.empty())
    throw_usage("--set changes a configuration and cannot be combined with --checkpoint");
  const std::unique_ptr<PerceiverAR> model = open_model(options, globals);
  DeviceContext& context = model->context();
  const double bandwidth = context.is_cuda() ? kGpuBandwidth : read_bandwidth(context.workers());
  nlohmann::ordered_json runs = nlohmann::ordered_json::array();
  for (const int64_t batch : options.batches) runs.push_back(measure(*model, options, batch, bandwidth));
  const nlohmann::ordered_json out{{"benchmark", "decode"},
                                   {"model", options.config.empty() ? options.checkpoint : options.config},
                                   {"device", context.name()},
                                   {"threads", context.threads()},
                                   {"precision", name_of(model->type())},
                                   {"weights", name_of(model->weight_type())},
                                   {"parameters", model->parameters().count()},
                                   {"bandwidth_gb_per_second", bandwidth / 1e9},
                                   {"tokens_timed", options.tokens},
                                   {"runs", runs}};
  std::printf("%s\n", out.dump(2).c_str());
  return 0;
}

}  // namespace

void add_bench_decode(CLI::App& bench, Globals& globals, Action& action) {
  auto options = std::make_shared<DecodeCommand>();
  CLI::App* decode =
      bench.add_subcommand("decode", "Report decoding throughput and achieved memory bandwidth, as JSON");
  decode->add_option("--config", options->config, "Configuration (YAML); random weights")->type_name(kPath);
  decode->add_option("--set", options->set, "Override a key: section.key=value")
      ->take_all()
      ->type_name(kKeyValue);
  decode->add_option("--checkpoint", options->checkpoint, "Run folder, checkpoint folder or model file")
      ->type_name(kPath);
  decode->add_option("--context", options->context, "Prompt length in tokens (0 = the model's context)")
      ->check(at_least(0))
      ->capture_default_str();
  decode->add_option("--batch", options->batches, "Batch size, or a list such as 1,8,64")
      ->delimiter(',')
      ->check(at_least(1))
      ->capture_default_str();
  decode->add_option("--tokens", options->tokens, "Timed tokens per sequence")
      ->check(at_least(1))
      ->capture_default_str();
  add_weights(*decode, options->weights);
  const std::map<std::string, ContextProjection> kept{{"auto", ContextProjection::automatic},
                                                      {"tokens", ContextProjection::table},
                                                      {"keys", ContextProjection::direct}};
  decode
      ->add_option(
          "--context-as", options->engine.context,
          "Storage of the context: tokens (with a table of keys and values), keys (and values), or auto (the "
          "faster)")
      ->transform(one_of(kept))
      ->default_str("auto");
  add_policy(*decode, options->engine);
  decode->footer(R"(Examples:
  perceiver bench decode --checkpoint runs/book --batch 1,8
  perceiver bench decode --config configs/quickstart.yaml --tokens 100 --policy refill)");
  decode->callback(
      [options, &globals, &action] { action = [options, &globals] { return run(*options, globals); }; });
}

}  // namespace perceiver::program
