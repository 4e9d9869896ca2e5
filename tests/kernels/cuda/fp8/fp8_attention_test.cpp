// Attention that leaves its result, or the gradients of packed heads, in 8 bits: bit for bit what attention
// and a pass give.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/fp8.h"
#include "tests/support/cuda_check.h"
#include "tests/support/gpu.h"

namespace perceiver::testing {
namespace {

using kernels::Fp8Format;

constexpr int64_t kCodesHeadDim = 64;

class CudaFp8Attention : public CudaKernelTest<bf16> {
 protected:
  void SetUp() override {
    CudaKernelTest<bf16>::SetUp();
    if (IsSkipped()) return;
    const char* obstacle =
        kernels::attention_obstacle(launch(), kernels::AttentionKernel::hopper, DType::bf16, kCodesHeadDim);
    if (obstacle != nullptr) GTEST_SKIP() << "Hopper's attention: " << obstacle;
  }
};

constexpr float kCodesScale = 32;

struct AttendedCase {
  int64_t batch, heads, queries, keys;
  bool general = false;  // a mask that is not causal
};

/// AttendedCodes, and what else a quantisation leaves.
struct AttendedCodes {
  AttendedCodes(int64_t rows, int64_t columns)
      : out(static_cast<size_t>(rows * columns)),
        transposed(static_cast<size_t>(rows * columns)),
        sums(static_cast<size_t>(columns)) {}

  kernels::Fp8Quantize quantize(int64_t rows, int64_t columns, Fp8Format format) const {
    return {.type = DType::bf16,
            .rows = rows,
            .columns = columns,
            .x = nullptr,
            .format = format,
            .scale = scale.data(),
            .largest = largest.data(),
            .out = out.data(),
            .transposed = transposed.data()};
  }
  void expect_equal(const AttendedCodes& other) const {
    EXPECT_EQ(out.read(), other.out.read());
    EXPECT_EQ(transposed.read(), other.transposed.read());
    EXPECT_EQ(largest.read(), other.largest.read());
    EXPECT_GT(largest.read()[0], 0);
  }

  DeviceArray<uint8_t> out, transposed;
  DeviceArray<float> sums, scale{std::vector<float>{kCodesScale}}, largest{std::vector<float>{0}};
};

/// Causal, or each query sees up to some keys more or less.
Ints attended_limits(const AttendedCase& c) {
  Ints limits;
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t i = 0; i < c.queries; ++i) {
      const int64_t causal = c.keys - c.queries + i + 1;
      limits.push_back(static_cast<int32_t>(c.general ? causal * (b + 1) / (c.batch + 1) : causal));
    }
  return limits;
}

struct AttendedInputs {
  explicit AttendedInputs(const AttendedCase& c)
      : width(c.heads * kCodesHeadDim),
        rows(c.batch * c.queries),
        q(random_values<bf16>(rows * 3 * width, 1)),
        kv(random_values<bf16>(c.batch * c.keys * 2 * width, 2)),
        out(rows * width),
        limits(attended_limits(c)),
        lse(static_cast<size_t>(rows * c.heads)) {}

  /// Packed: q, k and v are columns of q.
  kernels::Attention attention(const AttendedCase& c, bool packed) const {
    const bf16* const k = packed ? q.data() + width : kv.data();
    return {.type = DType::bf16,
            .batch = c.batch,
            .heads = c.heads,
            .queries = c.queries,
            .keys = c.keys,
            .head_dim = kCodesHeadDim,
            .q = q.data(),
            .q_stride = 3 * width,
            .k = k,
            .v = k + width,
            .kv_stride = packed ? 3 * width : 2 * width,
            .first = nullptr,
            .limit = limits.data(),
            .key_mask = nullptr,
            .self_visible = false,
            .out = out.data(),
            .out_stride = width,
            .lse = lse.data(),
            .kernel = kernels::AttentionKernel::hopper,
            .mask = c.general ? kernels::MaskShape::general : kernels::MaskShape::causal};
  }

  int64_t width, rows;
  Array<bf16> q, kv, out;
  DeviceArray<int32_t> limits;
  DeviceArray<float> lse;
};

TEST_F(CudaFp8Attention, LeavesItsResultAsAPassDoes) {
  const AttendedCase cases[] = {
      {2, 3, 160, 1000}, {1, 16, 1024, 1024}, {3, 5, 16, 64, true}, {2, 9, 400, 420, true}};
  for (const AttendedCase& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.queries << " queries, " << c.keys << " keys");
    const AttendedInputs in(c);
    const kernels::Attention attention = in.attention(c, false);
    ASSERT_TRUE(kernels::fp8_attention_possible(launch(), attention));
    const AttendedCodes one(in.rows, in.width), two(in.rows, in.width);
    kernels::Fp8Quantize quantize = two.quantize(in.rows, in.width, Fp8Format::e4m3);
    kernels::cuda::attention(launch(), attention);
    quantize.x = in.out.data();
    kernels::cuda::fp8_quantize(launch(), quantize);
    const std::vector<uint8_t> apart = in.out.bytes();
    kernels::cuda::fp8_attention(launch(), {attention, one.quantize(in.rows, in.width, Fp8Format::e4m3)});
    EXPECT_EQ(in.out.bytes(), apart);
    one.expect_equal(two);
    kernels::Fp8Quantize rows_alone = one.quantize(in.rows, in.width, Fp8Format::e4m3);
    rows_alone.transposed = nullptr;
    kernels::cuda::fp8_attention(launch(), {attention, rows_alone});
    one.expect_equal(two);
  }
}

TEST_F(CudaFp8Attention, LeavesGradientsOfPackedHeadsAsAPassDoes) {
  constexpr int64_t kBands = 16;
  const AttendedCase cases[] = {
      {2, 3, 160, 160}, {4, 16, 1024, 1024}, {3, 5, 16, 16, true}, {2, 9, 400, 400, true}};
  for (const AttendedCase& c : cases) {
    if (brief_tests() && c.queries > 1000) continue;
    SCOPED_TRACE(::testing::Message() << c.queries << " queries");
    const AttendedInputs in(c);
    const int64_t columns = 3 * in.width;
    const Array<bf16> d_out(random_values<bf16>(in.rows * in.width, 3)), gradients(in.rows * columns);
    const Array<float> cosine(random_values<float>(c.queries * kBands, 4)),
        sine(random_values<float>(c.queries * kBands, 5));
    const DeviceArray<int32_t> positions(random_ints(in.rows, 6, static_cast<int32_t>(c.queries)));
    const kernels::AttentionRotary rotary{.positions = positions.data(),
                                          .cosine = cosine.data(),
                                          .sine = sine.data(),
                                          .bands = kBands,
                                          .heads = c.heads};
    kernels::AttentionBackward backward{.forward = in.attention(c, true),
                                        .d_out = d_out.data(),
                                        .d_q = gradients.data(),
                                        .d_k = gradients.data() + in.width,
                                        .d_v = gradients.data() + 2 * in.width,
                                        .q_rotary = rotary,
                                        .k_rotary = rotary};
    ASSERT_TRUE(kernels::fp8_attention_possible(launch(), backward));
    const AttendedCodes one(in.rows, columns), two(in.rows, columns);
    kernels::Fp8Quantize quantize = two.quantize(in.rows, columns, Fp8Format::e5m2);
    kernels::cuda::attention(launch(), backward.forward);
    kernels::cuda::attention_backward(launch(), backward);
    quantize.x = gradients.data();
    quantize.column_sums = two.sums.data();
    kernels::cuda::fp8_quantize(launch(), quantize);
    quantize = one.quantize(in.rows, columns, Fp8Format::e5m2);
    quantize.column_sums = one.sums.data();
    backward.d_q = backward.d_k = backward.d_v = nullptr;
    kernels::cuda::fp8_attention_backward(launch(), {.backward = backward,
                                                     .quantize = quantize,
                                                     .q_column = 0,
                                                     .k_column = in.width,
                                                     .v_column = 2 * in.width});
    one.expect_equal(two);
    const std::vector<float> sums = one.sums.read(), apart = two.sums.read();
    expect_close(Values(sums.begin(), sums.end()), Values(apart.begin(), apart.end()), {1e-5, 1e-5},
                 "column sums");
  }
}

TEST_F(CudaFp8Attention, TakesWhatFitsItsTiles) {
  const auto possible = [&](const AttendedCase& c, int64_t head_dim) {
    const AttendedInputs in(c);
    kernels::AttentionBackward backward{
        .forward = in.attention(c, true), .d_out = nullptr, .d_q = nullptr, .d_k = nullptr, .d_v = nullptr};
    backward.forward.head_dim = head_dim;
    return kernels::fp8_attention_possible(launch(), backward);
  };
  EXPECT_FALSE(possible({2, 4, 168, 168}, kCodesHeadDim));
  EXPECT_FALSE(possible({2, 4, 160, 176}, kCodesHeadDim));
  EXPECT_FALSE(possible({2, 4, 160, 160}, 32));
}

}  // namespace
}  // namespace perceiver::testing
