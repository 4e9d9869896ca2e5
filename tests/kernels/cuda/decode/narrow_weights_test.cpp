// The fused decode step with weights of eight bits, against the numbers times their scales.
#include "tests/support/decode_checks.h"

namespace perceiver::testing {
namespace {

constexpr DType kNarrow[] = {DType::e4m3, DType::i8};

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
    for (const int64_t slots : {2, 3, 4, 7, 9, 17, 33, 64}) check({.slots = slots, .weights = weights});
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
    for (const int64_t slots : {1, 2, 3, 4, 6, 40})
      check_repeatable({.slots = slots,
                        .latent = 512,
                        .self_heads = 8,
                        .context_rows = 600,
                        .latent_rows = 300,
                        .weights = weights},
                       50);
}

}  // namespace
}  // namespace perceiver::testing
