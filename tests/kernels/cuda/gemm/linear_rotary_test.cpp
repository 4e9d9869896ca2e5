// Products whose queries and keys are rotated: against the CPU's in f64, and bit for bit against a product
// and a pass.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/fp8.h"
#include "kernels/gemm.h"
#include "tests/support/cuda_products.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaLinearRotary : public CudaProductsTest<T> {};
TYPED_TEST_SUITE(CudaLinearRotary, ElementTypes);

/// Parts of heads that are rotated, whole or in part, and other columns behind them.
struct LinearRotaryCase {
  int64_t rows, depth, parts, heads, head_dim, rotated_heads, bands, others, shift = 0;
};
const LinearRotaryCase kLinearRotaryCases[] = {
    {300, 72, 2, 4, 64, 4, 16, 256},     // the default: half of the channels
    {259, 200, 2, 8, 32, 8, 16, 256},    // all of them
    {300, 72, 1, 4, 64, 4, 32, 256},     //
    {260, 64, 2, 3, 128, 2, 64, 128},    // some heads, in parts that are no tiles
    {2500, 72, 2, 6, 128, 6, 32, 768},   //
    {260, 64, 2, 4, 64, 3, 8, 256},      //
    {1100, 136, 1, 2, 64, 2, 32, 0},     // queries alone
    {300, 40, 2, 4, 32, 3, 7, 128},      // pairs that are no multiple of 4
    {1, 8, 1, 1, 8, 1, 4, 0},            //
    {300, 40, 1, 9, 40, 2, 12, 360},     // heads of other widths
    {140, 64, 1, 3, 20, 3, 8, 4},        //
    {300, 72, 2, 4, 64, 4, 16, 256, 1},  // not aligned
};

template <typename T>
void check_linear_rotary(const Launch& launch, const LinearRotaryCase& c, bool biased) {
  constexpr int32_t kPositions = 50;
  const int64_t part_columns = c.heads * c.head_dim, columns = c.parts * part_columns + c.others,
                n = c.rows * columns;
  const Values x = random_values<T>(c.rows * c.depth, 1),
               weight = random_values<T>(columns * c.depth, 2, 1 / std::sqrt(c.depth)),
               bias = random_values<T>(columns, 3), cosine = random_values<float>(kPositions * c.bands, 4),
               sine = random_values<float>(kPositions * c.bands, 5);
  Ints positions = random_ints(c.rows, 6, 2 * kPositions - 1);
  for (int32_t& position : positions) position -= kPositions - 1;
  Values expected(static_cast<size_t>(n));
  kernels::LinearRotary k{.type = DType::f64,
                          .rows = c.rows,
                          .columns = columns,
                          .depth = c.depth,
                          .x = x.data(),
                          .weight = weight.data(),
                          .bias = biased ? bias.data() : nullptr,
                          .out = expected.data(),
                          .parts = c.parts,
                          .part_columns = part_columns,
                          .heads = c.rotated_heads,
                          .head_dim = c.head_dim,
                          .bands = c.bands,
                          .positions = positions.data(),
                          .cosine = cosine.data(),
                          .sine = sine.data()};
  kernels::cpu::linear_rotary(k);
  const Array<T> a_x(x, c.shift), a_weight(weight, c.shift), a_bias(bias), a_out(n, c.shift),
      a_apart(n, c.shift);
  const Array<float> a_cosine(cosine), a_sine(sine);
  const DeviceArray<int32_t> a_positions(positions);
  k.type = kType<T>;
  k.x = a_x.data(), k.weight = a_weight.data(), k.bias = biased ? a_bias.data() : nullptr;
  k.positions = a_positions.data(), k.cosine = a_cosine.data(), k.sine = a_sine.data();
  k.out = a_out.data();
  kernels::linear_rotary(launch, k);
  // Of two rounded numbers, each of which may be larger than the result.
  const Bound bound{bound_of<T>().relative, sizeof(T) == 2 ? 6e-3 : 2e-5};
  expect_close(a_out.read(), expected, bound, "out");
  // The same bits as the same product and a pass.
  k.out = a_apart.data();
  const kernels::cuda::HopperGemm own = kernels::cuda::hopper_product(product_of(k));
  const bool heads_fit = c.head_dim == 32 || c.head_dim == 64 || c.head_dim == 128;
  if (kType<T> == DType::bf16 && kernels::cuda::hopper_gemm_possible(own) && heads_fit &&
      kernels::cuda::hopper_gemm_fills_waves(launch, c.rows, columns)) {
    kernels::cuda::hopper_gemm(launch, own);
  } else {
    kernels::cuda::gemm(launch, product_of(k));
  }
  rotate_parts(k, [&](const kernels::Rotary& part) { kernels::cuda::rotary(launch, part); });
  EXPECT_EQ(a_out.bytes(), a_apart.bytes()) << c.rows << " rows, heads of " << c.head_dim;
}

/// With two multiprocessors four tiles of 256 rows are as many waves.
TYPED_TEST(CudaLinearRotary, IsAProductAndAPass) {
  Launch launch = this->products_launch();
  for (const int multiprocessors : {launch.sm_count, 2})
    for (const LinearRotaryCase& c : kLinearRotaryCases) {
      if (brief_tests() && c.rows > 1000) continue;
      launch.sm_count = multiprocessors;
      check_linear_rotary<TypeParam>(launch, c, true);
      check_linear_rotary<TypeParam>(launch, c, false);
    }
}

/// Codes of numbers between 1/16 and 2, of either sign.
std::vector<uint8_t> random_codes(int64_t elements, uint32_t seed) {
  std::vector<uint8_t> codes;
  for (const int32_t x : random_ints(elements, seed, 80))
    codes.push_back(static_cast<uint8_t>(0x18 + x % 40 + (x < 40 ? 0 : 0x80)));
  return codes;
}

void check_fp8_linear_rotary(const Launch& launch, const LinearRotaryCase& c, bool biased) {
  constexpr int32_t kPositions = 50;
  const int64_t part_columns = c.heads * c.head_dim, columns = c.parts * part_columns + c.others;
  const DeviceArray<uint8_t> x(random_codes(c.rows * c.depth, 1)), weight(random_codes(columns * c.depth, 2));
  const DeviceArray<float> x_inverse(std::vector<float>{0.25f}), weight_inverse(std::vector<float>{0.0625f});
  const Array<bf16> bias(random_values<bf16>(columns, 3)), out(c.rows * columns), apart(c.rows * columns);
  const Array<float> cosine(random_values<float>(kPositions * c.bands, 4)),
      sine(random_values<float>(kPositions * c.bands, 5));
  Ints signed_positions = random_ints(c.rows, 6, 2 * kPositions - 1);
  for (int32_t& position : signed_positions) position -= kPositions - 1;
  const DeviceArray<int32_t> positions(signed_positions);
  kernels::Fp8LinearRotary k{.product = {.type = DType::bf16,
                                         .out_type = DType::bf16,
                                         .m = c.rows,
                                         .n = columns,
                                         .k = c.depth,
                                         .a = x.data(),
                                         .a_inverse = x_inverse.data(),
                                         .b = weight.data(),
                                         .b_inverse = weight_inverse.data(),
                                         .c = out.data(),
                                         .bias = biased ? bias.data() : nullptr},
                             .rotary = {.type = DType::bf16,
                                        .rows = c.rows,
                                        .columns = columns,
                                        .depth = c.depth,
                                        .x = nullptr,
                                        .weight = nullptr,
                                        .out = out.data(),
                                        .parts = c.parts,
                                        .part_columns = part_columns,
                                        .heads = c.rotated_heads,
                                        .head_dim = c.head_dim,
                                        .bands = c.bands,
                                        .positions = positions.data(),
                                        .cosine = cosine.data(),
                                        .sine = sine.data()}};
  kernels::fp8_linear_rotary(launch, k);
  k.product.c = apart.data();
  k.rotary.out = apart.data();
  kernels::cuda::fp8_gemm(launch, k.product);
  rotate_parts(k.rotary, [&](const kernels::Rotary& part) { kernels::cuda::rotary(launch, part); });
  // The products before are sums of the same numbers, which the other side of a tie may take when rounded.
  expect_close(out.read(), apart.read(), {bound_of<bf16>().relative, 1.2e-2}, "out");
}

using CudaFp8LinearRotary = CudaProductsTest<bf16>;

TEST_F(CudaFp8LinearRotary, IsAProductAndAPass) {
  Launch launch = this->products_launch();
  if (kernels::fp8_obstacle(launch) != nullptr) GTEST_SKIP() << "no products of 8 bits on this GPU";
  const LinearRotaryCase cases[] = {
      {304, 80, 2, 4, 64, 4, 16, 256},     //
      {272, 208, 2, 8, 32, 8, 16, 256},    //
      {272, 64, 2, 3, 128, 2, 64, 128},    //
      {2512, 144, 2, 6, 128, 6, 32, 768},  //
      {1104, 400, 1, 2, 64, 2, 32, 0},     //
      {16, 16, 1, 2, 8, 1, 4, 0},          //
  };
  for (const int multiprocessors : {launch.sm_count, 2})
    for (const LinearRotaryCase& c : cases) {
      if (brief_tests() && c.rows > 1200) continue;
      launch.sm_count = multiprocessors;
      check_fp8_linear_rotary(launch, c, true);
      check_fp8_linear_rotary(launch, c, false);
    }
}

/// As many tiles as in a layer, on the whole GPU.
TYPED_TEST(CudaLinearRotary, Repeats) {
  using T = TypeParam;
  constexpr int64_t kRows = 8192, kColumns = 3072, kDepth = 64, kPart = 1024, kHeadDim = 64, kBands = 16;
  const Array<T> x(random_values<T>(kRows * kDepth, 1)), weight(random_values<T>(kColumns * kDepth, 2)),
      out(kRows * kColumns);
  const Array<float> cosine(random_values<float>(kRows * kBands, 3)),
      sine(random_values<float>(kRows * kBands, 4));
  const DeviceArray<int32_t> positions(random_ints(kRows, 5, kRows));
  const Launch launch = this->products_launch();
  this->expect_repeatable([] {},
                          [&] {
                            kernels::linear_rotary(launch, {.type = kType<T>,
                                                            .rows = kRows,
                                                            .columns = kColumns,
                                                            .depth = kDepth,
                                                            .x = x.data(),
                                                            .weight = weight.data(),
                                                            .out = out.data(),
                                                            .parts = 2,
                                                            .part_columns = kPart,
                                                            .heads = kPart / kHeadDim,
                                                            .head_dim = kHeadDim,
                                                            .bands = kBands,
                                                            .positions = positions.data(),
                                                            .cosine = cosine.data(),
                                                            .sine = sine.data()});
                          },
                          out);
}

}  // namespace
}  // namespace perceiver::testing
