// The fused decode step over a context that is kept as tokens, against the table's keys and values rotated
// in f64.
#include "tests/support/decode_checks.h"

namespace perceiver::testing {
namespace {

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
  check({.vocabulary = 150,
         .input = 512,
         .latent = 512,
         .attention = 512,
         .cross_heads = 2,
         .self_heads = 2,
         .tokens = true});
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

TEST_F(CudaDecode, TokensRepeatable) {
  check_repeatable({.attention = 256, .layers = 3, .context_rows = 20000, .cross_after = {1}, .tokens = true},
                   100);
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
