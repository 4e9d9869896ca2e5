// The fused decode step against a plain reference in f64: shapes, ragged and idle slots, further cross
// blocks, absolute positions, replays.
#include "tests/support/decode_checks.h"

namespace perceiver::testing {
namespace {

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

TEST_P(CudaDecodeCaches, HeadsOf256) {
  const std::vector<int64_t> numbers =
      brief_tests() ? std::vector<int64_t>{1, 3, 12} : std::vector<int64_t>{1, 2, 3, 4, 5, 8, 12, 33};
  for (const int64_t slots : numbers) {
    check_with_caches(
        {.slots = slots, .input = 256, .latent = 512, .attention = 512, .cross_heads = 2, .self_heads = 2});
    check_with_caches(
        {.slots = slots, .input = 512, .latent = 768, .attention = 256, .cross_heads = 1, .self_heads = 3});
  }
  if (brief_tests()) return;
  for (const int64_t slots : {1, 4, 64}) {
    check_with_caches({.slots = slots,
                       .input = 1024,
                       .latent = 1024,
                       .attention = 1024,
                       .cross_heads = 4,
                       .self_heads = 4});
    check_with_caches(
        {.slots = slots, .input = 512, .latent = 512, .attention = 1024, .cross_heads = 4, .self_heads = 8});
  }
  for (const int64_t slots : {1, 2, 12})
    check_with_caches({.slots = slots,
                       .latent = 512,
                       .attention = 512,
                       .cross_heads = 2,
                       .self_heads = 2,
                       .context_rows = 5000,
                       .latent_rows = 1030});
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
  for (const int64_t slots : {1, 3, 12})  // heads of 256 channels
    check_repeatable({.slots = slots,
                      .latent = 512,
                      .attention = 512,
                      .cross_heads = 2,
                      .self_heads = 2,
                      .context_rows = 600,
                      .latent_rows = 300},
                     50);
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

}  // namespace
}  // namespace perceiver::testing
