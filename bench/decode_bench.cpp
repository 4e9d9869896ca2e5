// decode_bench [--slots=1,8,64] [--weights=bfloat16|fp8|int8] [--caches=bfloat16|fp8] [--layers=N]
// [--heads=N] [--blocks=N] [configuration ...]: times the fused decode step alone, replayed as a CUDA graph,
// for the three configurations of configs/bench with full context and latents and each number of slots, and
// as "NAME-tokens" for one slot whose context is kept as tokens. First checks slot 0 and the last slot
// against the plain reference. Prints one line per run; exits with 1 if a check fails.
#include <charconv>
#include <cstdio>
#include <map>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "tests/support/decode_reference.h"
#include "tests/support/device_decode.h"

namespace perceiver::testing {
namespace {

constexpr double kBandwidth = 3.0e12;  // bytes per second of a copy on an H100
constexpr double kBound = 2e-2;
constexpr int kReplays = 40;

DecodeShape wide(int64_t vocabulary, int64_t context, int64_t latents, int64_t layers) {
  DecodeShape shape;
  shape.vocabulary = vocabulary;
  shape.input = shape.latent = shape.attention = 1024;
  shape.cross_heads = shape.self_heads = 16;
  shape.context_rows = context, shape.latent_rows = latents, shape.layers = layers;
  return shape;
}

DecodeShape with_tokens(DecodeShape shape) {
  shape.tokens = true;
  return shape;
}

const std::map<std::string, DecodeShape> kShapes = [] {
  std::map<std::string, DecodeShape> shapes{{"imagenet64", wide(259, 12288, 1024, 60)},
                                            {"copy131k", wide(259, 131072, 1024, 6)},
                                            {"music4k", wide(393, 4096, 2048, 12)}};
  for (const char* name : {"imagenet64", "copy131k", "music4k"})
    shapes[std::string(name) + "-tokens"] = with_tokens(shapes[name]);
  return shapes;
}();

/// For a context kept as tokens: tokens, positions and angles, less the projections that are not read. The
/// table is counted among the weights.
double token_bytes(const HostDecode& host) {
  const DecodeStep& k = host.step;
  const double angles = static_cast<double>(k.cross_rotary.bands * k.context_rows * 2 * 4);
  const double projection = static_cast<double>(2 * k.attention_width * (k.input_channels + 1) * 2);
  return static_cast<double>(k.context_rows * 8) + angles - projection * static_cast<double>(k.cross_blocks);
}

/// Bytes of weights and caches that a step must read.
double step_bytes(const HostDecode& host, int64_t slots) {
  const auto slot = static_cast<double>(host.context_kv.size() + host.self_kv.size());  // bytes
  double weights = 0;
  for (const std::vector<Bits>& array : host.arrays) weights += static_cast<double>(array.size());
  weights -= static_cast<double>(host.shape.vocabulary * host.shape.input);  // the step reads one row of it
  return 2 * weights + slot * static_cast<double>(slots) + (host.shape.tokens ? token_bytes(host) : 0);
}

double median_microseconds(const Launch& launch, const DecodeStep& step) {
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  kernels::cuda::decode_step(launch, step);
  require_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  require_cuda(cudaGraphInstantiate(&replay, graph, 0), "graph");
  std::vector<cudaEvent_t> events(kReplays + 1);
  for (cudaEvent_t& event : events) require_cuda(cudaEventCreate(&event), "event");
  for (int i = 0; i < 5; ++i) require_cuda(cudaGraphLaunch(replay, stream), "replay");
  require_cuda(cudaEventRecord(events[0], stream), "event");
  for (int i = 0; i < kReplays; ++i) {
    require_cuda(cudaGraphLaunch(replay, stream), "replay");
    require_cuda(cudaEventRecord(events[static_cast<size_t>(i) + 1], stream), "event");
  }
  require_cuda(cudaStreamSynchronize(stream), "a kernel");
  std::vector<float> times;
  for (size_t i = 0; i < kReplays; ++i) {
    float milliseconds = 0;
    require_cuda(cudaEventElapsedTime(&milliseconds, events[i], events[i + 1]), "event");
    times.push_back(milliseconds * 1000);
  }
  std::sort(times.begin(), times.end());
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  return static_cast<double>(times[times.size() / 2]);
}

bool run(const Launch& launch, const std::string& name, const DecodeShape& shape,
         const std::vector<int64_t>& all_slots) {
  HostDecode host(shape, 7);
  const auto context = static_cast<int32_t>(shape.context_rows),
             latents = static_cast<int32_t>(shape.latent_rows);
  host.set_slot(0, context, context - 1, latents, 17, true);
  host.positions[0] = context;
  host.fill_caches();
  bool good = true;
  DecodeReference::Row expected;
  for (const int64_t slots : all_slots) {
    if (shape.tokens && slots > 1) continue;
    const DeviceDecode device(launch, host, slots);
    if (!kernels::decode_supports(launch, device.step)) {
      std::printf("%s: no fused decode step for this GPU and shape\n", name.c_str());
      return false;
    }
    // Before the reference writes its rows into the host's caches, from which the next slots are copied; both
    // are alike.
    kernels::cuda::decode_step(launch, device.step);
    require_cuda(cudaDeviceSynchronize(), "decode_step");
    const std::vector<float> logits = device.logits->read();
    if (expected.empty()) expected = DecodeReference(host.step, 0).run();
    const int64_t v = shape.vocabulary;
    const double first = relative_error(logits.data(), expected.data(), v),
                 last = relative_error(logits.data() + (slots - 1) * v, expected.data(), v);
    const bool right = first < kBound && last < kBound;
    good = good && right;
    const double time = median_microseconds(launch, device.step);
    const double bytes = step_bytes(host, slots), bound = bytes / kBandwidth * 1e6;
    std::printf(
        "%-17s slots %2ld  %9.1f us/step  %9.0f tokens/s  %8.1f MB  bound %9.1f us  fraction %.3f  error "
        "%.1e %.1e%s\n",
        name.c_str(), static_cast<long>(slots), time, static_cast<double>(slots) / time * 1e6, bytes / 1e6,
        bound, bound / time, first, last, right ? "" : "  WRONG");
    std::fflush(stdout);
  }
  return good;
}

/// Reads "1,8,64"; false if it is not a list of positive numbers.
bool read_counts(const std::string& list, std::vector<int64_t>& counts) {
  counts.clear();
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) {
    int64_t count = 0;
    const char* end = word.data() + word.size();
    const auto [stop, error] = std::from_chars(word.data(), end, count);
    if (error != std::errc() || stop != end || count < 1) return false;
    counts.push_back(count);
  }
  return !counts.empty();
}

const std::map<std::string, DType> kWeights{
    {"bfloat16", DType::bf16}, {"fp8", DType::e4m3}, {"int8", DType::i8}};

int main_of(int count, char** words) {
  std::vector<int64_t> slots{1, 8, 64};
  std::vector<int64_t> layers;  // one number, if not those of the configuration
  std::vector<int64_t> heads;   // one number, likewise
  std::vector<int64_t> blocks;  // one number: multiprocessors to use, if not all
  DType weights = DType::bf16, caches = DType::bf16;
  std::vector<std::string> names;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word.starts_with("--slots=") && read_counts(word.substr(8), slots)) {
      continue;
    } else if (word.starts_with("--layers=") && read_counts(word.substr(9), layers)) {
      continue;
    } else if (word.starts_with("--heads=") && read_counts(word.substr(8), heads)) {
      continue;
    } else if (word.starts_with("--blocks=") && read_counts(word.substr(9), blocks)) {
      continue;
    } else if (word.starts_with("--weights=") && kWeights.contains(word.substr(10))) {
      weights = kWeights.at(word.substr(10));
    } else if (word == "--caches=bfloat16" || word == "--caches=fp8") {
      caches = kWeights.at(word.substr(9));
    } else if (kShapes.contains(word)) {
      names.push_back(word);
    } else {
      std::fprintf(stderr,
                   "decode_bench [--slots=1,8,64] [--weights=bfloat16|fp8|int8] [--caches=bfloat16|fp8] "
                   "[--layers=N] [--heads=N] [--blocks=N] [imagenet64|copy131k|music4k[-tokens]] ...\n");
      return 2;
    }
  }
  if (names.empty()) names = {"imagenet64", "copy131k", "music4k"};
  cudaDeviceProp properties{};
  require_cuda(cudaGetDeviceProperties(&properties, 0), "properties");
  std::printf("%s\n", properties.name);
  Launch launch;
  launch.device = {DeviceKind::cuda, 0};
  launch.sm_count = properties.multiProcessorCount;
  if (!blocks.empty()) launch.sm_count = std::min(launch.sm_count, static_cast<int>(blocks.back()));
  cudaStream_t stream = nullptr;
  require_cuda(cudaStreamCreate(&stream), "stream");
  launch.stream = stream;
  bool good = true;
  for (const std::string& name : names) {
    DecodeShape shape = kShapes.at(name);
    shape.weights = weights, shape.caches = caches;
    if (!layers.empty()) shape.layers = layers.back();
    if (!heads.empty()) shape.cross_heads = shape.self_heads = heads.back();
    good = run(launch, name, shape, slots) && good;
  }
  cudaStreamDestroy(stream);
  return good ? 0 : 1;
}

}  // namespace
}  // namespace perceiver::testing

int main(int count, char** words) {
  return perceiver::testing::main_of(count, words);
}
