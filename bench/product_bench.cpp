// product_bench [ROWS WIDTH]...: times the products of a layer of WIDTH channels for ROWS rows in bfloat16,
// on a GPU of compute capability 9.0 (default: 8192 1024, 32768 1024, 16384 512). Each by cuBLASLt and by the
// library's own kernel (kernels/cuda/gemm/hopper_gemm.cu); the two of the feed-forward layer that an
// activation follows also with squared ReLU, or its derivative and the bias gradient, and queries, keys and
// values also with their rotation, by a product and a pass, and in the product's epilogue; the hidden layer
// also with 8-bit operands and results. Prints microseconds:
// medians of rounds in turns, of launches over operands that rotate.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <functional>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/cuda/hopper/device.h"
#include "kernels/cuda/support/errors.h"
#include "kernels/fp8.h"
#include "kernels/gemm.h"
#include "perceiver/experimental/device_context.h"
#include "perceiver/experimental/tensor.h"

namespace perceiver {
namespace {

using kernels::cuda::check;

constexpr int kSets = 3, kRounds = 7;
constexpr size_t kMostLaunches = 60;
constexpr double kRoundFlops = 1e12;
constexpr int64_t kHeadDim = 64, kBands = 16, kPositions = 1024;

/// Numbers of about unit size, of random bits: products of zeros take less power. Activations' results are
/// positive.
Tensor random_matrix(DeviceContext& context, int64_t rows, int64_t columns, bool positive = false) {
  const Tensor matrix = Tensor::empty(context, DType::bf16, {rows, columns});
  std::vector<uint16_t> bits(static_cast<size_t>(rows * columns));
  std::minstd_rand random(static_cast<unsigned>(rows + columns));
  for (uint16_t& x : bits) x = static_cast<uint16_t>((random() & (positive ? 0xff : 0x80ff)) | 0x3f00);
  matrix.copy_from_host(std::as_bytes(std::span(bits)));
  return matrix;
}

/// Codes of numbers between 0.5 and 2, of random bits and sign, in e4m3 or e5m2.
Tensor random_codes(DeviceContext& context, int64_t rows, int64_t columns, kernels::Fp8Format format) {
  const Tensor matrix = Tensor::empty(context, DType::u8, {rows, columns});
  std::vector<uint8_t> codes(static_cast<size_t>(rows * columns));
  std::minstd_rand random(static_cast<unsigned>(rows + columns));
  const auto [mask, exponent] =
      format == kernels::Fp8Format::e4m3 ? std::pair{0x8f, 0x30} : std::pair{0x87, 0x38};
  for (uint8_t& x : codes) x = static_cast<uint8_t>((random() >> 8 & static_cast<unsigned>(mask)) | exponent);
  matrix.copy_from_host(std::as_bytes(std::span(codes)));
  return matrix;
}

/// What a product reads and writes.
struct Operands {
  Tensor a, b, out, kept, codes = {}, transposed = {};
};

struct Product {
  const char* name;
  int64_t rows, columns, depth;
  bool transpose_b;
  enum { alone, activation, derivative, rotation } follows;
};

using Run = std::function<void(const Operands&)>;

class Bench {
 public:
  explicit Bench(DeviceContext& context) : context_(context), launch_(context.launch()) {
    for (cudaEvent_t& event : events_) check(cudaEventCreate(&event), "event");
  }
  ~Bench() {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  void run(const Product& p) {
    bias_ = random_matrix(context_, 1, p.columns);
    d_bias_ = Tensor::empty(context_, DType::f32, {p.columns});
    if (p.follows == Product::rotation) make_angles(p.rows);
    std::vector<Operands> sets;
    for (int i = 0; i < kSets; ++i)
      sets.push_back({.a = random_matrix(context_, p.rows, p.depth),
                      .b = p.transpose_b ? random_matrix(context_, p.columns, p.depth)
                                         : random_matrix(context_, p.depth, p.columns),
                      .out = Tensor::empty(context_, DType::bf16, {p.rows, p.columns}),
                      .kept = kept(p)});
    std::vector<Run> runs{[&](const Operands& o) { library(p, o); }, [&](const Operands& o) { own(p, o); }};
    if (p.follows != Product::alone) {
      runs.push_back([&](const Operands& o) { library(p, o), pass(p, o); });
      runs.push_back([&](const Operands& o) { fused(p, o); });
    }
    print(p, sets, runs, {"cuBLASLt", "own", "cuBLASLt and a pass", "in one"});
  }

  /// The same with 8-bit operands and results; `p` is one that something follows.
  void run_fp8(const Product& p) {
    bias_ = random_matrix(context_, 1, p.columns);
    d_bias_ = Tensor::empty(context_, DType::f32, {p.columns});
    scales_ = Tensor::empty(context_, DType::f32, {2});
    const float scale_and_largest[] = {1, 0};
    scales_.copy_from_host(std::as_bytes(std::span(scale_and_largest)));
    std::vector<Operands> sets;
    for (int i = 0; i < kSets; ++i)
      sets.push_back({.a = random_codes(context_, p.rows, p.depth, format(p)),
                      .b = random_codes(context_, p.columns, p.depth, kernels::Fp8Format::e4m3),
                      .out = Tensor::empty(context_, DType::bf16, {p.rows, p.columns}),
                      .kept = kept(p),
                      .codes = Tensor::empty(context_, DType::u8, {p.rows, p.columns}),
                      .transposed = Tensor::empty(context_, DType::u8, {p.columns, p.rows})});
    const auto product = [&](const Operands& o) {
      kernels::cuda::fp8_gemm(launch_, quantising(p, o).product);
    };
    const std::vector<Run> runs{product, [&](const Operands& o) { product(o), fp8_pass(p, o); },
                                [&](const Operands& o) { fp8_in_one(p, o); }};
    print(p, sets, runs, {"8 bits: cuBLASLt", "cuBLASLt and a pass", "in one"});
  }

 private:
  static kernels::Fp8Format format(const Product& p) {
    return p.follows == Product::derivative ? kernels::Fp8Format::e5m2 : kernels::Fp8Format::e4m3;
  }
  Tensor kept(const Product& p) const {
    return p.follows == Product::derivative ? random_matrix(context_, p.rows, p.columns, true) : Tensor();
  }

  void print(const Product& p, const std::vector<Operands>& sets, const std::vector<Run>& runs,
             const std::vector<const char*>& names) const {
    std::printf("%-22s [%ld, %ld] x %ld:", p.name, static_cast<long>(p.rows), static_cast<long>(p.columns),
                static_cast<long>(p.depth));
    const std::vector<double> times = medians(p, sets, runs);
    for (size_t i = 0; i < runs.size(); ++i) std::printf("  %s %.1f", names[i], times[i]);
    std::printf("\n");
    std::fflush(stdout);
  }

  kernels::Fp8GemmQuantize quantising(const Product& p, const Operands& o) const {
    const bool derivative = p.follows == Product::derivative;
    return {.product = {.type = DType::bf16,
                        .out_type = DType::bf16,
                        .m = p.rows,
                        .n = p.columns,
                        .k = p.depth,
                        .a_format = format(p),
                        .a = o.a.data(),
                        .a_inverse = scales_.as<float>(),
                        .b = o.b.data(),
                        .b_inverse = scales_.as<float>(),
                        .c = o.out.data(),
                        .bias = derivative ? nullptr : bias_.data()},
            .quantize = {.type = DType::bf16,
                         .rows = p.rows,
                         .columns = p.columns,
                         .activation = Activation::squared_relu,
                         .x = derivative ? o.kept.data() : nullptr,
                         .format = format(p),
                         .scale = scales_.as<float>(),
                         .largest = scales_.as<float>() + 1,
                         .out = o.codes.data(),
                         .transposed = o.transposed.data(),
                         .column_sums = derivative ? d_bias_.data() : nullptr}};
  }
  void fp8_in_one(const Product& p, const Operands& o) const {
    kernels::Fp8GemmQuantize both = quantising(p, o);
    if (p.follows == Product::derivative) both.product.c = nullptr;
    kernels::cuda::fp8_gemm_quantize(launch_, both);
  }
  void fp8_pass(const Product& p, const Operands& o) const {
    kernels::Fp8Quantize quantize = quantising(p, o).quantize;
    (p.follows == Product::derivative ? quantize.d_out : quantize.x) = o.out.data();
    kernels::cuda::fp8_quantize(launch_, quantize);
  }

  kernels::Gemm product(const Product& p, const Operands& o) const {
    return {.type = DType::bf16,
            .out_type = DType::bf16,
            .transpose_b = p.transpose_b,
            .m = p.rows,
            .n = p.columns,
            .k = p.depth,
            .a = o.a.data(),
            .lda = p.depth,
            .b = o.b.data(),
            .ldb = p.transpose_b ? p.depth : p.columns,
            .c = o.out.data(),
            .ldc = p.columns,
            .bias = p.transpose_b ? bias_.data() : nullptr};
  }
  void library(const Product& p, const Operands& o) const { kernels::cuda::gemm(launch_, product(p, o)); }
  void own(const Product& p, const Operands& o) const {
    kernels::cuda::hopper_gemm(launch_, kernels::cuda::hopper_product(product(p, o)));
  }
  void pass(const Product& p, const Operands& o) const {
    if (p.follows == Product::rotation)
      return rotate_parts(rotated(p, o),
                          [&](const kernels::Rotary& k) { kernels::cuda::rotary(launch_, k); });
    if (p.follows == Product::activation)
      return kernels::cuda::bias_activation(launch_, activation_of(forward(p, o)));
    kernels::cuda::bias_activation_backward(launch_, activation_of(backward(p, o)));
  }
  void fused(const Product& p, const Operands& o) const {
    if (p.follows == Product::rotation) return kernels::cuda::linear_rotary(launch_, rotated(p, o));
    if (p.follows == Product::activation) return kernels::cuda::linear_activation(launch_, forward(p, o));
    kernels::cuda::linear_activation_backward(launch_, backward(p, o));
  }
  kernels::LinearActivation forward(const Product& p, const Operands& o) const {
    return {.type = DType::bf16,
            .rows = p.rows,
            .columns = p.columns,
            .depth = p.depth,
            .x = o.a.data(),
            .weight = o.b.data(),
            .bias = bias_.data(),
            .activation = Activation::squared_relu,
            .pre = o.out.data(),
            .out = o.out.data()};
  }
  kernels::LinearActivationBackward backward(const Product& p, const Operands& o) const {
    return {.type = DType::bf16,
            .rows = p.rows,
            .columns = p.columns,
            .depth = p.depth,
            .d_out = o.a.data(),
            .weight = o.b.data(),
            .activation = Activation::squared_relu,
            .kept = o.kept.data(),
            .d_pre = o.out.data(),
            .d_bias = d_bias_.data()};
  }

  /// Queries, keys and values of heads of 64 channels, of which half are rotated, as by default.
  kernels::LinearRotary rotated(const Product& p, const Operands& o) const {
    return {.type = DType::bf16,
            .rows = p.rows,
            .columns = p.columns,
            .depth = p.depth,
            .x = o.a.data(),
            .weight = o.b.data(),
            .bias = bias_.data(),
            .out = o.out.data(),
            .parts = 2,
            .part_columns = p.columns / 3,
            .heads = p.columns / 3 / kHeadDim,
            .head_dim = kHeadDim,
            .bands = kBands,
            .positions = positions_.as<int32_t>(),
            .cosine = angles_.data(),
            .sine = angles_.data()};
  }
  /// Examples of kPositions rows.
  void make_angles(int64_t rows) {
    std::vector<int32_t> positions(static_cast<size_t>(rows));
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i % kPositions);
    positions_ = Tensor::from_host<int32_t>(context_, {rows}, positions);
    const std::vector<float> angles(kPositions * kBands, 0.7f);
    angles_ = Tensor::from_host<float>(context_, {kPositions, kBands}, angles);
  }

  std::vector<double> medians(const Product& p, const std::vector<Operands>& sets,
                              const std::vector<Run>& runs) const {
    const double flops = 2.0 * static_cast<double>(p.rows) * static_cast<double>(p.columns * p.depth);
    const size_t launches =
        std::clamp<size_t>(static_cast<size_t>(kRoundFlops / flops), kSets, kMostLaunches);
    std::vector<std::vector<double>> times(runs.size());
    for (int round = -1; round < kRounds; ++round)
      for (size_t i = 0; i < runs.size(); ++i) {
        const double time = seconds(sets, runs[i], launches) / static_cast<double>(launches) * 1e6;
        if (round >= 0) times[i].push_back(time);
      }
    std::vector<double> result;
    for (std::vector<double>& all : times) {
      std::sort(all.begin(), all.end());
      result.push_back(all[all.size() / 2]);
    }
    return result;
  }
  double seconds(const std::vector<Operands>& sets, const Run& run, size_t launches) const {
    const auto stream = static_cast<cudaStream_t>(launch_.stream);
    check(cudaEventRecord(events_[0], stream), "event");
    for (size_t i = 0; i < launches; ++i) run(sets[i % sets.size()]);
    check(cudaEventRecord(events_[1], stream), "event");
    check(cudaEventSynchronize(events_[1]), "event");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, events_[0], events_[1]), "event");
    return static_cast<double>(milliseconds) / 1000;
  }

  DeviceContext& context_;
  const Launch launch_;
  std::array<cudaEvent_t, 2> events_{};
  Tensor bias_, d_bias_, scales_, positions_, angles_;
};

/// The products of a layer, forward and towards its input.
void run_layer(Bench& bench, int64_t rows, int64_t width) {
  const int64_t hidden = 4 * width;
  const bool fp8 = rows % 16 == 0 && width % 16 == 0;
  bench.run({"queries, keys, values", rows, 3 * width, width, true,
             width % kHeadDim == 0 ? Product::rotation : Product::alone});
  bench.run({"attention's output", rows, width, width, true, Product::alone});
  const Product activated{"hidden layer", rows, hidden, width, true, Product::activation};
  bench.run(activated);
  if (fp8) bench.run_fp8(activated);
  bench.run({"its output", rows, width, hidden, true, Product::alone});
  const Product derivative{"d hidden", rows, hidden, width, false, Product::derivative};
  bench.run(derivative);
  if (fp8) bench.run_fp8(derivative);
  bench.run({"d of its input", rows, width, hidden, false, Product::alone});
  bench.run({"d attended", rows, width, width, false, Product::alone});
  bench.run({"d of QKV's input", rows, width, 3 * width, false, Product::alone});
}

int run(std::span<char*> words) {
  std::vector<int64_t> sizes;
  for (const std::string_view word : words) {
    int64_t size = 0;
    const char* end = word.data() + word.size();
    const auto [stop, error] = std::from_chars(word.data(), end, size);
    if (error == std::errc() && stop == end && size > 0 && size % 8 == 0) sizes.push_back(size);
  }
  if (sizes.size() != words.size() || sizes.size() % 2 != 0) {
    std::fprintf(stderr, "product_bench [ROWS WIDTH]...: multiples of 8\n");
    return 2;
  }
  if (sizes.empty()) sizes = {8192, 1024, 32768, 1024, 16384, 512};
  const std::shared_ptr<DeviceContext> context = DeviceContext::cuda();
  if (!kernels::cuda::hopper::built() || !kernels::cuda::hopper::on_hopper()) {
    std::fprintf(stderr, "product_bench needs a GPU of compute capability 9.0, and a build for 90a\n");
    return 1;
  }
  std::printf("%s, microseconds\n", context->name().c_str());
  Bench bench(*context);
  for (size_t i = 0; i < sizes.size(); i += 2) run_layer(bench, sizes[i], sizes[i + 1]);
  return 0;
}

}  // namespace
}  // namespace perceiver

int main(int count, char** words) {
  return perceiver::run(std::span(words, static_cast<size_t>(count)).subspan(1));
}
