// perceiver bench attention: the attention kernels alone, as JSON lines.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>

#include "core/check.h"
#include "core/host_values.h"
#include "core/philox.h"
#include "model/precision.h"
#include "ops/ops.h"
#include "tools/commands.h"

namespace perceiver::program {
namespace {

struct Case {
  int64_t batch, heads, queries, keys, head_dim;
};

// Latents at the end of the context, causal (docs/benchmarks.md).
constexpr Case kGpuCases[] = {{8, 16, 1024, 12288, 64}, {4, 16, 1024, 131072, 64}, {4, 16, 1024, 32768, 128},
                              {16, 16, 1024, 1024, 64}, {4, 16, 8192, 8192, 64},   {4, 16, 8192, 8192, 128}};
constexpr Case kCpuCases[] = {{1, 4, 256, 4096, 64}, {1, 4, 1024, 1024, 64}, {1, 4, 256, 4096, 128}};

struct Options {
  std::string precision = "auto";
  std::vector<int64_t> shape;
  int repeats = 10;
};

Precision precision_of(const std::string& name) {
  constexpr const char* names[] = {"auto", "bfloat16", "tf32", "float32", "float64"};
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names))
    throw_user("precision '{}' is unknown; auto, bfloat16, tf32, float32 or float64", name);
  return static_cast<Precision>(found - std::begin(names));
}

/// Uniform values in [-1, 1).
Tensor random_matrix(DeviceContext& context, DType type, Shape shape, uint32_t seed) {
  const Tensor tensor = Tensor::empty(context, type, shape);
  // A short period, drawn once: large matrices would take longer to draw than to multiply.
  std::vector<double> period(4093);
  for (size_t i = 0; i < period.size(); ++i)
    period[i] = philox({static_cast<uint32_t>(i), seed, 0, 0}, 1, 2)[0] * 0x1.0p-31 - 1;
  fill(tensor, [&](int64_t i) { return period[static_cast<size_t>(i) % period.size()]; });
  return tensor;
}

Variable with_gradient(const Tensor& value) {
  Variable variable{value, std::make_shared<Gradient>()};
  variable.gradient->shape = value.shape();
  variable.gradient->dtype = value.dtype();
  return variable;
}

/// Median milliseconds of `work`, each sample over enough calls to make launches cheap beside it.
double median_ms(DeviceContext& context, int repeats, const std::function<void()>& work) {
  const int calls = context.is_cuda() ? 4 : 1;
  std::vector<double> samples;
  for (int i = 0; i < repeats + 2; ++i) {
    context.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) work();
    context.synchronize();
    samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() * 1e3 /
                      calls);
  }
  const auto first = samples.begin() + 2, middle = first + repeats / 2;  // two to warm up
  std::nth_element(first, middle, samples.end());
  return *middle;
}

void run_case(DeviceContext& context, DType type, const Case& c, int repeats) {
  const int64_t width = c.heads * c.head_dim;
  const Variable q = with_gradient(random_matrix(context, type, {c.batch * c.queries, width}, 1)),
                 kv = with_gradient(random_matrix(context, type, {c.batch * c.keys, 2 * width}, 2));
  const Tensor d_out = random_matrix(context, type, {c.batch * c.queries, width}, 3);
  std::vector<int32_t> limit;
  for (int64_t i = 0; i < c.batch * c.queries; ++i)
    limit.push_back(static_cast<int32_t>(c.keys - c.queries + i % c.queries + 1));
  ops::AttentionMask mask;
  mask.limit = Tensor::from_host<int32_t>(context, {static_cast<int64_t>(limit.size())}, limit);
  const ops::AttentionInputs inputs{q, kv, 0, 0, width, c.batch, c.heads, c.head_dim};

  const double forward = median_ms(context, repeats, [&] {
    Tape tape(context, false);
    ops::attention(tape, inputs, mask);
  });
  const double both = median_ms(context, repeats, [&] {
    Tape tape(context, true);
    const Variable out = ops::attention(tape, inputs, mask);
    tape.give(out, d_out);
    tape.backward();
    q.gradient->written = kv.gradient->written = false;
  });
  const auto m = static_cast<double>(c.queries);
  const double area = m * static_cast<double>(c.keys) - m * (m - 1) / 2;
  const double operations = 4 * static_cast<double>(c.batch * width) * area;
  const double backward = both - forward;
  const nlohmann::ordered_json out{
      {"benchmark", "attention"},
      {"device", context.name()},
      {"precision", name_of(type)},
      {"batch", c.batch},
      {"heads", c.heads},
      {"queries", c.queries},
      {"keys", c.keys},
      {"head_dim", c.head_dim},
      {"forward_ms", forward},
      {"forward_tflops", operations / forward / 1e9},
      {"backward_ms", backward},
      {"backward_tflops", 2.5 * operations / backward / 1e9}};
  std::printf("%s\n", out.dump().c_str());
  std::fflush(stdout);
}

int run(const Options& options, const Globals& globals) {
  const auto context = DeviceContext::open(globals.device.empty() ? "auto" : globals.device, globals.threads);
  const DType type = apply_precision(precision_of(options.precision), *context);
  if (!options.shape.empty()) {
    const auto& s = options.shape;
    if (s[2] > s[3]) throw_user("--shape: {} queries, but only {} keys", s[2], s[3]);
    run_case(*context, type, {s[0], s[1], s[2], s[3], s[4]}, options.repeats);
    return 0;
  }
  const std::span<const Case> cases = context->is_cuda() ? std::span<const Case>(kGpuCases) : kCpuCases;
  for (const Case& each : cases) run_case(*context, type, each, options.repeats);
  return 0;
}

}  // namespace

void add_bench_attention(CLI::App& bench, Globals& globals, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* attention = bench.add_subcommand(
      "attention", "Time causal attention, forward and backward; prints a line of JSON for each shape");
  attention
      ->add_option("--shape", options->shape,
                   "Batch, heads, queries, keys and channels of a head, e.g. 4,16,1024,32768,128 (default: the "
                   "shapes of docs/benchmarks.md)")
      ->delimiter(',')
      ->expected(5)
      ->check(CLI::PositiveNumber);
  attention->add_option("--precision", options->precision, "auto, bfloat16, float32 or float64")
      ->capture_default_str();
  attention->add_option("--repeats", options->repeats, "Timed samples")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  attention->callback([options, &globals, &action] {
    action = [options, &globals] { return run(*options, globals); };
  });
}

}  // namespace perceiver::program
