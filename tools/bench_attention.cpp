// perceiver bench attention: speed of the attention kernels, as JSON lines.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>

#include "base/check.h"
#include "kernels/attention.h"
#include "model/precision.h"
#include "perceiver/experimental/host_values.h"
#include "perceiver/experimental/philox.h"
#include "perceiver/experimental/tensor.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/timing.h"
#include "tools/validators.h"

#ifdef PERCEIVER_CUDA
#include "kernels/cuda/attention/choice.h"
#include "kernels/cuda/attention/cudnn_attention.h"
#endif

namespace perceiver::program {
namespace {

struct AttentionCase {
  int64_t batch, heads, queries, keys, head_dim;
  int64_t width() const { return heads * head_dim; }
};

// Latents at the end of the context, causal (docs/benchmarks).
constexpr AttentionCase kGpuCases[] = {
    {8, 16, 1024, 12288, 64}, {4, 16, 1024, 131072, 64}, {4, 16, 1024, 32768, 128}, {16, 16, 1024, 1024, 64},
    {4, 16, 8192, 8192, 64},  {4, 16, 8192, 8192, 128},  {8, 4, 1024, 12288, 256},  {4, 8, 8192, 8192, 256}};
constexpr AttentionCase kCpuCases[] = {{1, 4, 256, 4096, 64}, {1, 4, 1024, 1024, 64}, {1, 4, 256, 4096, 128}};

// In the order of kernels::AttentionKernel.
constexpr const char* kKernels[] = {"automatic", "reference", "portable", "hopper", "cudnn"};

struct AttentionCommand {
  std::string precision = "auto", kernel = "automatic", mask = "causal";
  std::vector<int64_t> shape;
  int repeats = 10;
};

Precision precision_of(const std::string& name) {
  constexpr const char* names[] = {"auto", "bfloat16", "tf32", "float32", "float64"};
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names))
    throw_user("precision '{}' is unknown; use auto, bfloat16, tf32, float32 or float64", name);
  return static_cast<Precision>(found - std::begin(names));
}

/// Uniform values in [-1, 1).
Tensor random_matrix(DeviceContext& context, DType type, Shape shape, uint32_t seed) {
  const Tensor tensor = Tensor::empty(context, type, shape);
  // Repeats a short period: large matrices would take longer to generate than to multiply.
  std::vector<double> period(4093);
  for (size_t i = 0; i < period.size(); ++i)
    period[i] = philox({static_cast<uint32_t>(i), seed, 0, 0}, 1, 2)[0] * 0x1.0p-31 - 1;
  fill(tensor, [&](int64_t i) { return period[static_cast<size_t>(i) % period.size()]; });
  return tensor;
}

/// Matrices laid out as in a model, keys and values side by side in each row; query i sees all keys, or if
/// `causal` those up to its own position at the end of the context.
struct Problem {
  Problem(DeviceContext& context, DType type, const AttentionCase& c, bool causal)
      : mask(causal ? kernels::MaskShape::causal : kernels::MaskShape::full),
        q(random_matrix(context, type, {c.batch * c.queries, c.width()}, 1)),
        kv(random_matrix(context, type, {c.batch * c.keys, 2 * c.width()}, 2)),
        d_out(random_matrix(context, type, {c.batch * c.queries, c.width()}, 3)),
        out(Tensor::empty(context, type, q.shape())),
        d_q(Tensor::empty(context, type, q.shape())),
        d_kv(Tensor::empty(context, type, kv.shape())),
        lse(Tensor::empty(context, accumulation_type(type), {c.batch, c.heads, c.queries})) {
    std::vector<int32_t> limits;
    for (int64_t i = 0; i < c.batch * c.queries; ++i)
      limits.push_back(static_cast<int32_t>(causal ? c.keys - c.queries + i % c.queries + 1 : c.keys));
    limit = Tensor::from_host<int32_t>(context, {static_cast<int64_t>(limits.size())}, limits);
  }

  kernels::AttentionBackward arguments(const AttentionCase& c) const {
    const auto column = [&](const Tensor& matrix) {
      return static_cast<std::byte*>(matrix.data()) +
             static_cast<size_t>(c.width()) * size_of(matrix.dtype());
    };
    kernels::AttentionBackward a{};
    kernels::Attention& k = a.forward;
    k.type = q.dtype();
    k.batch = c.batch;
    k.heads = c.heads;
    k.queries = c.queries;
    k.keys = c.keys;
    k.head_dim = c.head_dim;
    k.q = q.data();
    k.k = kv.data();
    k.v = column(kv);
    k.q_stride = k.out_stride = c.width();
    k.kv_stride = 2 * c.width();
    k.limit = limit.as<int32_t>();
    k.mask = mask;
    k.out = out.data();
    k.lse = lse.data();
    a.d_out = d_out.data();
    a.d_q = d_q.data();
    a.d_k = d_kv.data();
    a.d_v = column(d_kv);
    return a;
  }

  kernels::MaskShape mask;
  Tensor q, kv, d_out, out, d_q, d_kv, lse, limit;
};

Tensor scratch_of(DeviceContext& context, int64_t bytes) {
  return bytes > 0 ? Tensor::empty(context, DType::u8, {bytes}) : Tensor();
}

struct Times {
  std::string forward, backward;  ///< names of the timed kernels
  double forward_ms, backward_ms;
};

#ifdef PERCEIVER_CUDA
std::string kernel_name(kernels::AttentionKernel kernel) {
  const std::string name = kKernels[static_cast<int>(kernel)];
  return kernel == kernels::AttentionKernel::cudnn ? name + " " + kernels::cuda::cudnn_version() : name;
}
#endif

/// Names of the kernels that run, i.e. what `automatic` resolves to.
std::pair<std::string, std::string> names_of(DeviceContext& context, const kernels::AttentionBackward& a) {
#ifdef PERCEIVER_CUDA
  if (context.is_cuda()) {
    const auto choice = kernels::cuda::attention_choice(a, context.launch().sm_count);
    return {kernel_name(choice.forward), kernel_name(choice.backward)};
  }
#endif
  (void)context, (void)a;
  return {"cpu", "cpu"};
}

Times time_attention(DeviceContext& context, const AttentionCase& c, const Problem& problem,
                     kernels::AttentionKernel kernel, int repeats) {
  kernels::AttentionBackward a = problem.arguments(c);
  a.forward.kernel = kernel;
  const Tensor scratch = scratch_of(context, kernels::attention_backward_workspace(context.launch(), a));
  a.scratch = scratch.data();
  const double forward =
      median_ms(context, repeats, [&] { kernels::attention(context.launch(), a.forward); });
  const double backward =
      median_ms(context, repeats, [&] { kernels::attention_backward(context.launch(), a); });
  const auto [forward_name, backward_name] = names_of(context, a);
  return {forward_name, backward_name, forward, backward};
}

/// Number of (query, visible key) pairs.
double visible_pairs(const AttentionCase& c, bool causal) {
  const auto m = static_cast<double>(c.queries);
  return m * static_cast<double>(c.keys) - (causal ? m * (m - 1) / 2 : 0);
}

void run_case(DeviceContext& context, DType type, const AttentionCase& c, const AttentionCommand& options) {
  const auto kernel = static_cast<kernels::AttentionKernel>(
      std::find(std::begin(kKernels), std::end(kKernels), options.kernel) - std::begin(kKernels));
  if (const char* obstacle = kernels::attention_obstacle(context.launch(), kernel, type, c.head_dim))
    throw_user("--kernel {}, heads of {} channels, {}: {}", options.kernel, c.head_dim, name_of(type),
               obstacle);
  const bool causal = options.mask == "causal";
  const Problem problem(context, type, c, causal);
  const Times times = time_attention(context, c, problem, kernel, options.repeats);
  const double operations = 4 * static_cast<double>(c.batch * c.width()) * visible_pairs(c, causal);
  const nlohmann::ordered_json out{{"benchmark", "attention"},
                                   {"device", context.name()},
                                   {"kernel", times.forward},
                                   {"backward_kernel", times.backward},
                                   {"mask", options.mask},
                                   {"precision", name_of(type)},
                                   {"batch", c.batch},
                                   {"heads", c.heads},
                                   {"queries", c.queries},
                                   {"keys", c.keys},
                                   {"head_dim", c.head_dim},
                                   {"forward_ms", times.forward_ms},
                                   {"forward_tflops", operations / times.forward_ms / 1e9},
                                   {"backward_ms", times.backward_ms},
                                   {"backward_tflops", 2.5 * operations / times.backward_ms / 1e9}};
  std::printf("%s\n", out.dump().c_str());
  std::fflush(stdout);
}

int run(const AttentionCommand& options, const Globals& globals) {
  const auto context = DeviceContext::open(globals.device.empty() ? "auto" : globals.device, globals.threads);
  const DType type = apply_precision(precision_of(options.precision), *context);
  if (!context->is_cuda() && options.kernel != "automatic")
    throw_user("--kernel {}: the CPU has only one kernel; omit the option", options.kernel);
  if (!options.shape.empty()) {
    const auto& s = options.shape;
    if (s[2] > s[3]) throw_user("--shape: {} queries, but only {} keys", s[2], s[3]);
    run_case(*context, type, {s[0], s[1], s[2], s[3], s[4]}, options);
    return 0;
  }
  const std::span<const AttentionCase> cases =
      context->is_cuda() ? std::span<const AttentionCase>(kGpuCases) : kCpuCases;
  for (const AttentionCase& each : cases) run_case(*context, type, each, options);
  return 0;
}

}  // namespace

void add_bench_attention(CLI::App& bench, Globals& globals, Action& action) {
  auto options = std::make_shared<AttentionCommand>();
  CLI::App* attention = bench.add_subcommand(
      "attention", "Report attention forward and backward throughput, one JSON line per shape");
  attention
      ->add_option(
          "--shape", options->shape,
          "Batch, heads, queries, keys and head dimension, e.g. 4,16,1024,32768,128 (default: the shapes in "
          "docs/benchmarks)")
      ->delimiter(',')
      ->expected(5)
      ->check(at_least(1));
  attention
      ->add_option(
          "--kernel", options->kernel,
          "On a GPU: automatic, reference, portable, hopper, or cudnn (NVIDIA's library, where installed)")
      ->check(one_of(std::vector<std::string>(std::begin(kKernels), std::end(kKernels))))
      ->capture_default_str();
  attention
      ->add_option("--mask", options->mask,
                   "causal (queries are the last positions and see no later key) or none (all keys)")
      ->check(one_of({"causal", "none"}))
      ->capture_default_str();
  attention->add_option("--precision", options->precision, "auto, bfloat16, float32 or float64")
      ->capture_default_str();
  attention->add_option("--repeats", options->repeats, "Timed samples")
      ->check(at_least(1))
      ->capture_default_str();
  attention->footer(R"(Examples:
  perceiver bench attention
  perceiver bench attention --shape 4,16,1024,32768,128 --precision float32)");
  attention->callback(
      [options, &globals, &action] { action = [options, &globals] { return run(*options, globals); }; });
}

}  // namespace perceiver::program
