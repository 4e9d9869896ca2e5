// The fused decode step against a plain reference in f64: shapes, ragged and idle slots, further cross
// blocks, absolute positions, replays.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <string>

#include "tests/support/decode_reference.h"
#include "tests/support/device_decode.h"

namespace perceiver::testing {
namespace {

// Sums in f32 round a few inputs of products and cached rows differently from the reference's in f64, and
// each moves what follows by a fraction of its ulp. The reference itself in f32, its sums changed by up to
// 3e-6, ends up to 6.4e-3 away from the one in f64 on these problems, 3.6e-3 in the mean of a problem.
constexpr double kBound = 8e-3, kMeanBound = 5e-3;
// With caches of e4m3, the same moves some numbers of a new row to the neighbour, 6 to 12% away.
constexpr double kNarrowBound = 2e-2, kNarrowRowBound = 4e-2;
constexpr int64_t kMinSlotsForMean = 5;  // the mean of fewer says little
constexpr int kReports = 8;              // deviating rows reported per cache

class CudaDecode : public CudaTest {
 protected:
  /// Whether this GPU has the kernel, which is documented for compute capability 9.0 alone.
  bool supported(const DecodeStep& step) const {
    cudaDeviceProp properties{};
    require_cuda(cudaGetDeviceProperties(&properties, 0), "properties");
    const bool expected = properties.major == 9 && properties.minor == 0;
    EXPECT_EQ(kernels::decode_supports(launch(), step), expected);
    return expected;
  }

  void check(const DecodeShape& shape, const std::function<void(HostDecode&)>& change = {}) {
    SCOPED_TRACE(::testing::Message() << shape.slots << " slots, widths " << shape.input << ' '
                                      << shape.latent << ' ' << shape.attention);
    HostDecode host(shape, 11);
    if (change) change(host);
    host.fill_caches();
    const DeviceDecode device(launch(), host, shape.slots);
    if (!supported(device.step)) GTEST_SKIP() << "no fused decode step on this GPU";
    kernels::cuda::decode_step(launch(), device.step);
    synchronize();
    const std::vector<float> first = device.logits->read();
    // Once more, with the workspace as the first step left it.
    kernels::cuda::decode_step(launch(), device.step);
    synchronize();
    compare_repeated(host, first, device.logits->read());
    compare(host, device);
  }

  void check_repeatable(const DecodeShape& shape, int runs) {
    HostDecode host(shape, 3);
    const DeviceDecode device(launch(), host, shape.slots);
    if (!supported(device.step)) GTEST_SKIP() << "no fused decode step on this GPU";
    std::vector<float> first;
    for (int i = 0; i < runs; ++i) {
      require_cuda(cudaMemset(device.logits->data(), 0xFF, device.logits->size() * 4), "poison");
      kernels::cuda::decode_step(launch(), device.step);
      synchronize();
      const std::vector<float> logits = device.logits->read();
      if (i == 0) first = logits;
      ASSERT_EQ(std::memcmp(logits.data(), first.data(), first.size() * 4), 0) << "in run " << i;
    }
  }

  static void compare_repeated(const HostDecode& host, const std::vector<float>& first,
                               const std::vector<float>& second) {
    const int64_t v = host.step.vocabulary;
    for (int64_t i = 0; i < static_cast<int64_t>(first.size()); ++i) {
      if (host.actives[static_cast<size_t>(i / v)] == 0) continue;
      ASSERT_EQ(std::bit_cast<uint32_t>(first[static_cast<size_t>(i)]),
                std::bit_cast<uint32_t>(second[static_cast<size_t>(i)]))
          << "the same step twice: logit " << i % v << " of " << slot_text(host, i / v) << ", "
          << first[static_cast<size_t>(i)] << " and " << second[static_cast<size_t>(i)];
    }
  }

  /// Runs the reference on `host`, whose caches it updates as the step must.
  static void compare(HostDecode& host, const DeviceDecode& device) {
    const std::vector<float> logits = device.logits->read();
    const int64_t v = host.step.vocabulary;
    double sum = 0;
    int64_t count = 0;
    for (int64_t s = 0; s < host.step.slots; ++s) {
      if (host.actives[static_cast<size_t>(s)] == 0) continue;
      const DecodeReference::Row expected = DecodeReference(host.step, s).run();
      const double error = relative_error(logits.data() + s * v, expected.data(), v);
      EXPECT_LT(error, host.shape.caches == DType::bf16 ? kBound : kNarrowBound)
          << "logits of " << slot_text(host, s);
      sum += error, ++count;
    }
    if (count >= kMinSlotsForMean && host.shape.caches == DType::bf16) {
      EXPECT_LT(sum / static_cast<double>(count), kMeanBound) << "mean of slots";
    }
    const DecodeShape& shape = host.shape;
    if (shape.tokens) {
      EXPECT_EQ(device.context_tokens->read(), host.context_tokens);
      EXPECT_EQ(device.context_positions->read(), host.context_positions);
    } else {
      compare_cache(*device.context_kv, host.context_kv, host, host.context_places, shape.context_rows,
                    shape.attention, shape.cross_heads, "context of cross block");
    }
    compare_cache(*device.self_kv, host.self_kv, host, host.latent_places, shape.latent_rows, shape.latent,
                  shape.self_heads, "latents of self layer");
  }

  /// Rows that the step must not write are unchanged, bit for bit. Reports the first rows that differ, in the
  /// order in which the step computes them.
  static void compare_cache(const DeviceArray<uint8_t>& device, const std::vector<uint8_t>& host,
                            const HostDecode& problem, const std::vector<int32_t>& places, int64_t ring_rows,
                            int64_t width, int64_t heads, const char* what) {
    const std::vector<uint8_t> actual = device.read();
    ASSERT_EQ(actual.size(), host.size());
    const DType type = problem.shape.caches;
    const auto row_bytes = 2 * width * static_cast<int64_t>(size_of(type));
    int reports = 0;
    for (int64_t row = 0; row < static_cast<int64_t>(host.size()) / row_bytes; ++row) {
      const auto a = actual.begin() + row * row_bytes, e = host.begin() + row * row_bytes;
      if (std::equal(a, a + row_bytes, e)) continue;
      std::vector<double> x, y;
      for (int64_t i = row * 2 * width; i < (row + 1) * 2 * width; ++i) {
        x.push_back(cached_number(actual.data(), type, i));
        y.push_back(cached_number(host.data(), type, i));
      }
      const double error = relative_error(x.data(), y.data(), 2 * width);
      const int64_t slot = row / ring_rows % problem.shape.slots;
      const auto s = static_cast<size_t>(slot);
      const bool written = problem.actives[s] != 0 && row % ring_rows == places[s];
      if (written && error < (type == DType::bf16 ? kBound : kNarrowRowBound)) continue;
      ADD_FAILURE() << what << ' ' << row / ring_rows / problem.shape.slots << ", row " << row % ring_rows
                    << " of " << slot_text(problem, slot) << ": error " << error << ", "
                    << worst_head(x, y, width / heads, heads);
      if (++reports == kReports) return;
    }
  }

  static std::string slot_text(const HostDecode& host, int64_t slot) {
    const auto s = static_cast<size_t>(slot);
    return (::testing::Message() << "slot " << slot << " (context " << host.contexts[s] << ", latents "
                                 << host.latents[s] << ", rows written " << host.context_places[s] << " and "
                                 << host.latent_places[s] << ')')
        .GetString();
  }
  /// The head with the largest error in a row of keys and values.
  static std::string worst_head(const std::vector<double>& x, const std::vector<double>& y, int64_t head_dim,
                                int64_t heads) {
    double worst = -1;
    int64_t at = 0;
    for (int64_t h = 0; h < 2 * heads && !std::isnan(worst); ++h) {
      const double error = relative_error(x.data() + h * head_dim, y.data() + h * head_dim, head_dim);
      if (!(error <= worst)) worst = error, at = h;
    }
    return (::testing::Message() << (at < heads ? "keys" : "values") << " of head " << at % heads << ' '
                                 << worst)
        .GetString();
  }
};

/// With caches of both types.
class CudaDecodeCaches : public CudaDecode, public ::testing::WithParamInterface<DType> {
 protected:
  void check_with_caches(DecodeShape shape, const std::function<void(HostDecode&)>& change = {}) {
    shape.caches = GetParam();
    check(shape, change);
  }
};
INSTANTIATE_TEST_SUITE_P(Caches, CudaDecodeCaches, ::testing::Values(DType::bf16, DType::e4m3),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST_P(CudaDecodeCaches, Widths) {
  check_with_caches({});
  check_with_caches({.input = 1024, .latent = 1024, .attention = 1024, .cross_heads = 16, .self_heads = 16});
  check_with_caches({.input = 512, .latent = 512, .attention = 512, .cross_heads = 8, .self_heads = 4});
  check_with_caches({.input = 256, .latent = 512, .attention = 256, .cross_heads = 8, .self_heads = 8});
  check_with_caches({.input = 256, .latent = 128, .attention = 128, .cross_heads = 2, .self_heads = 1});
  check_with_caches(
      {.vocabulary = 17, .input = 96, .latent = 192, .attention = 192, .cross_heads = 3, .self_heads = 6});
  check_with_caches(
      {.vocabulary = 1, .input = 32, .latent = 32, .attention = 32, .cross_heads = 1, .self_heads = 1});
  check_with_caches({.input = 1024,
                     .latent = 768,
                     .attention = 768,
                     .cross_heads = 12,
                     .self_heads = 6,
                     .self_widening = 1});
}

TEST_P(CudaDecodeCaches, Slots) {
  for (const int64_t slots : {2, 3, 4, 7, 8, 9, 16, 17, 32, 33, 64}) check_with_caches({.slots = slots});
  for (const int64_t slots : {2, 3, 4, 5})  // heads of 64 channels
    check_with_caches(
        {.slots = slots, .input = 512, .latent = 512, .attention = 512, .cross_heads = 8, .self_heads = 8});
  for (const int64_t slots : {2, 4, 6})  // more than one warp to a head, and to a row
    check_with_caches(
        {.slots = slots, .input = 1024, .latent = 768, .attention = 256, .cross_heads = 2, .self_heads = 6});
  for (const int64_t slots : {2, 3, 4, 8})
    check_with_caches(
        {.slots = slots, .input = 96, .latent = 160, .attention = 32, .cross_heads = 1, .self_heads = 5});
  check_with_caches(
      {.slots = 64, .input = 256, .latent = 512, .attention = 256, .cross_heads = 2, .self_heads = 16});
  check_with_caches(
      {.slots = 20, .input = 96, .latent = 192, .attention = 192, .cross_heads = 3, .self_heads = 6});
}

TEST_P(CudaDecodeCaches, ManyRows) {
  for (const int64_t slots : {1, 2, 4, 12})
    check_with_caches({.slots = slots,
                       .input = 256,
                       .latent = 256,
                       .attention = 256,
                       .cross_heads = 4,
                       .self_heads = 4,
                       .context_rows = 5000,
                       .latent_rows = 1030},
                      [](HostDecode& host) {
                        host.set_slot(0, 5000, 4999, 1030, 0, true);
                        if (host.shape.slots > 1) host.set_slot(1, 1, 0, 1, 0, true);
                      });
}

TEST_P(CudaDecodeCaches, FewRows) {
  for (const int32_t rows : {1, 2, 3, 31, 33, 64, 65})
    for (const int32_t new_row : {0, rows / 2, rows - 1})
      check_with_caches({.latent = 256, .self_heads = 4, .context_rows = 65, .latent_rows = 65},
                        [=](HostDecode& host) { host.set_slot(0, rows, new_row, rows, new_row, true); });
}

TEST_P(CudaDecodeCaches, IdleSlots) {
  for (const int64_t slots : {4, 18})
    check_with_caches({.slots = slots}, [](HostDecode& host) {
      host.actives[0] = 0;
      host.set_slot(2, -7, 1 << 30, -7, 1 << 30, false);
      host.tokens[2] = host.positions[2] = 1 << 30;
      host.actives.back() = 0;
    });
  check_with_caches({.slots = 2}, [](HostDecode& host) { host.actives = {0, 0}; });
}

TEST_P(CudaDecodeCaches, Variants) {
  for (const Activation activation :
       {Activation::squared_relu, Activation::relu, Activation::gelu, Activation::silu, Activation::identity})
    check_with_caches({.activation = activation});
  check_with_caches({.slots = 3, .query_residual = false, .biases = false, .query_offset = 1});
  check_with_caches({.slots = 10, .layers = 4, .cross_after = {0, 2}});
  check_with_caches({.slots = 4, .layers = 3, .cross_after = {1}, .query_layers = 2});
  check_with_caches({.layers = 3, .cross_after = {1, 2}});
  check_with_caches({.slots = 2, .query_layers = 1});
  check_with_caches({.slots = 9, .query_activation = Activation::gelu, .query_layers = 3});
  check_with_caches({.slots = 2, .position_tables = 3});
  check_with_caches({.slots = 2, .rotary_fraction = 1, .rotary_heads = 0.5});
  check_with_caches({.rotary_fraction = 0});
}

TEST_P(CudaDecodeCaches, NarrowWeights) {
  for (const DType weights : {DType::e4m3, DType::i8})
    for (const int64_t slots : {1, 2, 3, 4, 12})
      check_with_caches({.slots = slots, .latent = 256, .attention = 256, .weights = weights});
}

TEST_P(CudaDecodeCaches, TokensOfTheContext) {
  check_with_caches({.latent = 256, .self_heads = 4, .context_rows = 600, .tokens = true});
  check_with_caches({.latent = 256, .self_heads = 2, .tokens = true});
}

TEST_P(CudaDecodeCaches, Repeatable) {
  for (const int64_t slots : {1, 5, 20})
    check_repeatable({.slots = slots,
                      .latent = 256,
                      .self_heads = 4,
                      .context_rows = 3000,
                      .latent_rows = 700,
                      .caches = GetParam()},
                     10);
}

TEST_P(CudaDecodeCaches, NegativePositions) {
  check_with_caches({.slots = 2}, [](HostDecode& host) { host.positions = {-5, -17}; });
}

// The context as tokens: as above, against the table's keys and values rotated in f64.
TEST_F(CudaDecode, TokensWidths) {
  check({.tokens = true});
  check({.input = 1024,
         .latent = 1024,
         .attention = 1024,
         .cross_heads = 16,
         .self_heads = 16,
         .context_rows = 3000,
         .tokens = true});
  check({.input = 256, .latent = 512, .attention = 256, .cross_heads = 8, .self_heads = 8, .tokens = true});
  check({.input = 256, .latent = 128, .attention = 128, .cross_heads = 1, .self_heads = 1, .tokens = true});
  check({.vocabulary = 17,
         .input = 96,
         .latent = 192,
         .attention = 192,
         .cross_heads = 3,
         .self_heads = 6,
         .tokens = true});
  check({.vocabulary = 1,
         .input = 32,
         .latent = 32,
         .attention = 32,
         .cross_heads = 1,
         .self_heads = 1,
         .tokens = true});
}

TEST_F(CudaDecode, TokensRows) {
  for (const int32_t rows : {1, 2, 255, 511, 512, 513, 1023, 1500})
    for (const int32_t new_row : {0, rows / 2, rows - 1})
      check({.context_rows = 1500, .tokens = true},
            [=](HostDecode& host) { host.set_slot(0, rows, new_row, 7, 3, true); });
}

/// Enough rows that two heads share a block and every block has a part.
TEST_F(CudaDecode, TokensManyRows) {
  for (const int32_t rows : {1, 600, 20000, 65536, 69999, 70000})
    check({.vocabulary = 300, .attention = 256, .cross_heads = 4, .context_rows = 70000, .tokens = true},
          [=](HostDecode& host) { host.set_slot(0, rows, rows / 2, 24, 5, true); });
  for (const int64_t heads : {2, 3, 6})
    check({.attention = 64 * heads, .cross_heads = heads, .context_rows = 17000, .tokens = true},
          [](HostDecode& host) { host.set_slot(0, 17000, 0, 24, 23, true); });
}

TEST_F(CudaDecode, TokensVariants) {
  check({.layers = 4, .context_rows = 2000, .cross_after = {0, 2}, .tokens = true});
  check({.layers = 3, .cross_after = {1, 2}, .query_residual = false, .biases = false, .tokens = true});
  check({.query_offset = 1, .query_layers = 2, .tokens = true});
  for (const double fraction : {0.0, 0.25, 1.0})
    check({.latent = 256, .attention = 256, .rotary_fraction = fraction, .tokens = true});
  check({.context_rows = 17000, .rotary_fraction = 1, .rotary_heads = 0.75, .tokens = true});
  check({.attention = 256, .cross_heads = 4, .rotary_heads = 0.5, .tokens = true});
}

TEST_F(CudaDecode, TokensNegativePositions) {
  check({.context_rows = 900, .tokens = true}, [](HostDecode& host) { host.positions = {-5}; });
}

TEST_F(CudaDecode, TokensIdle) {
  check({.tokens = true}, [](HostDecode& host) {
    host.set_slot(0, -7, 1 << 30, -7, 1 << 30, false);
    host.tokens[0] = host.positions[0] = 1 << 30;
  });
}

/// Steps replayed from a graph, each with the caches and counts that the previous one left.
class CudaDecodeReplays : public CudaDecode, public ::testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(Weights, CudaDecodeReplays, ::testing::Values(DType::bf16, DType::e4m3),
                         [](const auto& each) { return std::string(name_of(each.param)); });

TEST_P(CudaDecodeReplays, AreSteps) {
  DecodeShape shape{.slots = 3, .layers = 3, .context_rows = 30, .latent_rows = 20, .weights = GetParam()};
  HostDecode host(shape, 5);
  // As a previous step left it: every row up to the last one written holds something.
  for (int64_t s = 0; s < 3; ++s) host.set_slot(s, 5, 5, 4, 4, true);
  host.fill_caches();
  for (int64_t s = 0; s < 3; ++s) host.set_slot(s, 5, 4, 4, 3, true);
  const DeviceDecode device(launch(), host, shape.slots);
  if (!supported(device.step)) GTEST_SKIP() << "no fused decode step on this GPU";
  const auto stream = static_cast<cudaStream_t>(launch().stream);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  kernels::cuda::decode_step(launch(), device.step);
  require_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  require_cuda(cudaGraphInstantiate(&replay, graph, 0), "graph");
  for (int step = 0; step < 12; ++step) {
    const auto advance = [&](std::vector<int32_t>& numbers, const int32_t* to) {
      for (int32_t& x : numbers) ++x;
      require_cuda(cudaMemcpy(const_cast<int32_t*>(to), numbers.data(), 12, cudaMemcpyHostToDevice),
                   "advance");
    };
    advance(host.contexts, device.step.context_count), advance(host.context_places, device.step.context_row);
    advance(host.latents, device.step.latent_count), advance(host.latent_places, device.step.latent_row);
    advance(host.tokens, device.step.token), advance(host.positions, device.step.position);
    for (int32_t& token : host.tokens) token %= 200;
    for (int32_t& position : host.positions) position %= 30;
    require_cuda(
        cudaMemcpy(const_cast<int32_t*>(device.step.token), host.tokens.data(), 12, cudaMemcpyHostToDevice),
        "tokens");
    require_cuda(cudaMemcpy(const_cast<int32_t*>(device.step.position), host.positions.data(), 12,
                            cudaMemcpyHostToDevice),
                 "positions");
    require_cuda(cudaGraphLaunch(replay, stream), "replay");
    synchronize();
    SCOPED_TRACE(::testing::Message() << "step " << step);
    compare(host, device);
    // The reference continues from the same rows, so that rounding differences do not accumulate.
    const std::vector<uint8_t> context_kv = device.context_kv->read(), self_kv = device.self_kv->read();
    std::copy(context_kv.begin(), context_kv.end(), host.context_kv.begin());
    std::copy(self_kv.begin(), self_kv.end(), host.self_kv.begin());
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

constexpr DType kNarrow[] = {DType::e4m3, DType::i8};

// Weights of eight bits: as above, against the numbers times their scales.
TEST_F(CudaDecode, NarrowWidths) {
  for (const DType weights : kNarrow) {
    check({.weights = weights});
    check({.input = 1024,
           .latent = 1024,
           .attention = 1024,
           .cross_heads = 16,
           .self_heads = 16,
           .weights = weights});
    check({.input = 256,
           .latent = 512,
           .attention = 256,
           .cross_heads = 8,
           .self_heads = 8,
           .weights = weights});
    check({.vocabulary = 17,
           .input = 96,
           .latent = 192,
           .attention = 192,
           .cross_heads = 3,
           .self_heads = 6,
           .weights = weights});
    check({.vocabulary = 1,
           .input = 32,
           .latent = 32,
           .attention = 32,
           .cross_heads = 1,
           .self_heads = 1,
           .weights = weights});
    check({.input = 1024,
           .latent = 768,
           .attention = 768,
           .cross_heads = 12,
           .self_heads = 6,
           .self_widening = 1,
           .weights = weights});
  }
}

TEST_F(CudaDecode, NarrowSlots) {
  for (const DType weights : kNarrow) {
    for (const int64_t slots : {2, 4, 7, 9, 17, 33, 64}) check({.slots = slots, .weights = weights});
    for (const int64_t slots : {2, 3, 4, 5})
      check({.slots = slots,
             .input = 512,
             .latent = 512,
             .attention = 512,
             .cross_heads = 8,
             .self_heads = 8,
             .weights = weights});
    check({.slots = 20,
           .input = 96,
           .latent = 192,
           .attention = 192,
           .cross_heads = 3,
           .self_heads = 6,
           .weights = weights});
  }
}

TEST_F(CudaDecode, NarrowVariants) {
  for (const DType weights : kNarrow) {
    check({.slots = 3, .query_residual = false, .biases = false, .query_offset = 1, .weights = weights});
    check({.layers = 3, .cross_after = {1, 2}, .query_layers = 2, .weights = weights});
    check({.slots = 2, .position_tables = 3, .weights = weights});
    check({.latent = 256, .self_heads = 4, .context_rows = 5000, .latent_rows = 1030, .weights = weights});
  }
}

TEST_F(CudaDecode, NarrowTokens) {
  for (const DType weights : kNarrow) {
    check({.tokens = true, .weights = weights});
    check({.attention = 256,
           .cross_heads = 4,
           .layers = 3,
           .context_rows = 17000,
           .cross_after = {1},
           .tokens = true,
           .weights = weights});
  }
}

TEST_F(CudaDecode, NarrowRepeatable) {
  for (const DType weights : kNarrow)
    for (const int64_t slots : {1, 6, 40})
      check_repeatable({.slots = slots,
                        .latent = 512,
                        .self_heads = 8,
                        .context_rows = 600,
                        .latent_rows = 300,
                        .weights = weights},
                       50);
}

// More tiles than a warp holds at once: of outputs, in several passes, and of inputs, with a scale for each
// four, or in up to four parts of different lengths.
TEST_F(CudaDecode, ManyTiles) {
  for (const DType weights : {DType::bf16, DType::e4m3, DType::i8})
    for (const int64_t slots : {1, 3, 12, 40})
      check({.slots = slots,
             .vocabulary = 9001,
             .latent = 1024,
             .self_heads = 16,
             .cross_widening = 3,
             .self_widening = 7,
             .weights = weights});
}

// Scaling the inputs does not hide a NaN or an infinity.
TEST_F(CudaDecode, NotANumber) {
  for (const auto& [weights, caches] : {std::pair{DType::bf16, DType::bf16},
                                        {DType::e4m3, DType::bf16},
                                        {DType::i8, DType::bf16},
                                        {DType::bf16, DType::e4m3}})
    for (const Bits value : {Bits{0x7FC0}, Bits{0xFF80}}) {  // not a number, minus infinity
      HostDecode host({.weights = weights, .caches = caches}, 11);
      host.arrays[0][static_cast<size_t>(host.tokens[0] * host.shape.input + 5)] = value;
      const DeviceDecode device(launch(), host, 1);
      if (!supported(device.step)) GTEST_SKIP() << "no fused decode step on this GPU";
      kernels::cuda::decode_step(launch(), device.step);
      synchronize();
      for (const float logit : device.logits->read()) ASSERT_TRUE(std::isnan(logit)) << logit;
    }
}

/// A slot whose numbers are lost does not touch the others.
TEST_F(CudaDecode, NotANumberInOneSlot) {
  for (const auto& [weights, caches] :
       {std::pair{DType::bf16, DType::bf16}, {DType::i8, DType::bf16}, {DType::bf16, DType::e4m3}})
    for (const int64_t slots : {3, 10}) {
      const DecodeShape shape{
          .slots = slots, .latent = 192, .self_heads = 6, .weights = weights, .caches = caches};
      const auto logits_of = [&](bool lost) {
        HostDecode host(shape, 11);
        for (int64_t s = 0; s < slots; ++s) host.tokens[static_cast<size_t>(s)] = s == 1 ? 0 : 1;
        if (lost) host.arrays[0][5] = 0x7FC0;  // token 0, not a number
        const DeviceDecode device(launch(), host, slots);
        if (!supported(device.step)) return std::vector<float>{};
        kernels::cuda::decode_step(launch(), device.step);
        synchronize();
        return device.logits->read();
      };
      const std::vector<float> expected = logits_of(false), found = logits_of(true);
      if (expected.empty()) GTEST_SKIP() << "no fused decode step on this GPU";
      for (size_t i = 0; i < found.size(); ++i) {
        if (static_cast<int64_t>(i) / shape.vocabulary == 1) {
          ASSERT_TRUE(std::isnan(found[i])) << i;
        } else {
          ASSERT_EQ(found[i], expected[i]) << i;
        }
      }
    }
}

/// When the flags start over, words of the previous epoch are not taken for new ones.
class CudaDecodeEpochs : public CudaDecode, public ::testing::WithParamInterface<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Slots, CudaDecodeEpochs, ::testing::Values(1, 2, 4, 7));

TEST_P(CudaDecodeEpochs, StartOver) {
  HostDecode host({.slots = GetParam(), .layers = 3}, 9);
  const DeviceDecode device(launch(), host, GetParam());
  if (!supported(device.step)) GTEST_SKIP() << "no fused decode step on this GPU";
  const std::vector<float> expected = [&] {
    kernels::cuda::decode_step(launch(), device.step);
    synchronize();
    return device.logits->read();
  }();
  const auto blocks = static_cast<uint64_t>(kernels::cuda::decode_blocks(launch(), device.step));
  const uint64_t steps = kernels::kDecodeEpoch - 2, ends = steps * blocks;
  require_cuda(
      cudaMemcpy(static_cast<uint8_t*>(device.step.workspace) + 128, &ends, 8, cudaMemcpyHostToDevice),
      "count of steps");
  for (int i = 0; i < 5; ++i) {
    require_cuda(cudaMemset(device.logits->data(), 0xFF, device.logits->size() * 4), "poison");
    kernels::cuda::decode_step(launch(), device.step);
    synchronize();
    compare_repeated(host, expected, device.logits->read());
  }
  uint64_t after = 0;
  require_cuda(
      cudaMemcpy(&after, static_cast<uint8_t*>(device.step.workspace) + 128, 8, cudaMemcpyDeviceToHost),
      "count of steps");
  EXPECT_EQ(after, (steps + 5) * blocks);
}

/// The order of sums depends on the shapes alone.
TEST_F(CudaDecode, Repeatable) {
  for (const int64_t slots : {1, 2, 3, 4, 6, 40})
    check_repeatable(
        {.slots = slots, .latent = 512, .self_heads = 8, .context_rows = 600, .latent_rows = 300}, 50);
}

TEST_F(CudaDecode, TokensRepeatable) {
  check_repeatable({.attention = 256, .layers = 3, .context_rows = 20000, .cross_after = {1}, .tokens = true},
                   100);
}

/// What the kernel cannot do is left to separate operations.
TEST_F(CudaDecode, Unsupported) {
  HostDecode host({.slots = 1}, 1);
  DeviceDecode device(launch(), host, 1);
  if (!supported(device.step)) GTEST_SKIP() << "no fused decode step on this GPU";
  const auto refused = [&](auto change) {
    DecodeStep step = device.step;
    change(step);
    return !kernels::decode_supports(launch(), step);
  };
  EXPECT_TRUE(refused([](DecodeStep& s) { s.type = DType::f32; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.weight_type = DType::f32; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.cache_type = DType::f32; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.cache_type = DType::i8; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.slots = 65; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.latent_channels = 2048; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.self_heads = 8; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.layers = 129; }));
  EXPECT_TRUE(
      refused([](DecodeStep& s) { s.output.weight = static_cast<const Bits*>(s.output.weight) + 1; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.context_kv = nullptr; }));
  EXPECT_FALSE(refused([](DecodeStep& s) { s.slots = 64, s.context_rows = 131072; }));
}

TEST_F(CudaDecode, TokensUnsupported) {
  HostDecode host({.tokens = true}, 1);
  DeviceDecode device(launch(), host, 1);
  if (!supported(device.step)) GTEST_SKIP() << "no fused decode step on this GPU";
  const auto refused = [&](auto change) {
    DecodeStep step = device.step;
    change(step);
    return !kernels::decode_supports(launch(), step);
  };
  EXPECT_TRUE(refused([](DecodeStep& s) { s.slots = 2; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.vocabulary = 32000; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.context_tokens = nullptr; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.context_kv = s.self_kv; }));
  EXPECT_TRUE(refused([](DecodeStep& s) { s.cross_rotary.bands = 3; }));
  // One head fits where two do not.
  EXPECT_FALSE(refused([](DecodeStep& s) { s.vocabulary = 1200, s.context_rows = 1 << 20; }));
}

}  // namespace
}  // namespace perceiver::testing
