#include "kernels/fp8.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/gemm.h"
#include "perceiver/experimental/random.h"

namespace perceiver::kernels {
namespace {

/// Codes of up to 16 numbers, with a scale of 1.
std::vector<int> codes_of(std::vector<float> values, Fp8Format format) {
  const size_t count = values.size();
  values.resize(256, 0);
  std::vector<uint8_t> codes(values.size());
  const float scale = 1;
  float largest = 0;
  cpu::fp8_quantize({.type = DType::f32,
                     .rows = 16,
                     .columns = 16,
                     .x = values.data(),
                     .format = format,
                     .scale = &scale,
                     .largest = &largest,
                     .out = codes.data()});
  return {codes.begin(), codes.begin() + static_cast<std::ptrdiff_t>(count)};
}

TEST(Fp8, CodesOfE4m3) {
  const float infinite = std::numeric_limits<float>::infinity();
  EXPECT_EQ(codes_of({0, 1, -1.5f, 448, 1e9f, -1e9f, infinite, std::nanf("")}, Fp8Format::e4m3),
            (std::vector<int>{0x00, 0x38, 0xbc, 0x7e, 0x7e, 0xfe, 0x7f, 0x7f}));
  // Ties go to the even mantissa, also where it carries into the exponent.
  EXPECT_EQ(codes_of({17, 19, 31, 18.01f}, Fp8Format::e4m3), (std::vector<int>{0x58, 0x5a, 0x60, 0x59}));
  // Subnormal numbers are multiples of 2^-9.
  EXPECT_EQ(codes_of({0x1p-9f, 0x1p-10f, 0x1.8p-9f, 0x1p-6f, 0x1.fp-7f}, Fp8Format::e4m3),
            (std::vector<int>{0x01, 0x00, 0x02, 0x08, 0x08}));
}

TEST(Fp8, CodesOfE5m2) {
  EXPECT_EQ(codes_of({1, 57344, 1e9f, 0x1p-16f, 1.125f, 1.375f, -0x1p-17f}, Fp8Format::e5m2),
            (std::vector<int>{0x3c, 0x7b, 0x7b, 0x01, 0x3c, 0x3e, 0x80}));
}

TEST(Fp8, AnInfiniteMagnitudeTeachesNothing) {
  const float infinite = std::numeric_limits<float>::infinity();
  std::array<float, 16> scales{};
  std::array<float, 2> largest{infinite, 16}, peaks{0, 20};
  kernels::Fp8Rescale rescale{
      .sites = 2, .all_sites = 2, .scales = scales.data(), .largest = largest.data(), .peaks = peaks.data()};
  cpu::fp8_rescale(rescale);
  EXPECT_EQ(peaks, (std::array<float, 2>{0, 20}));
  EXPECT_EQ(scales[kernels::fp8_scale_of(0)], 1);

  largest = {4, infinite};
  kernels::StepScalars scalars{};
  scalars.finite = 1;
  rescale.scalars = &scalars;
  cpu::fp8_rescale(rescale);
  EXPECT_EQ(peaks, (std::array<float, 2>{4, 18}));
}

struct Problem {
  int64_t rows = 32, columns = 48;
  std::vector<float> x, d_out;

  Problem() {
    RandomStream random(3, RandomPurpose::user);
    for (int64_t i = 0; i < rows * columns; ++i) {
      x.push_back(static_cast<float>(random.uniform() * 4 - 2));
      d_out.push_back(static_cast<float>(random.uniform() * 2 - 1));
    }
  }
};

TEST(Fp8, TransposedCopyMagnitudeAndSums) {
  const Problem p;
  const auto elements = static_cast<size_t>(p.rows * p.columns);
  for (const Activation activation : {Activation::identity, Activation::squared_relu, Activation::gelu}) {
    std::vector<uint8_t> out(elements), transposed(elements);
    std::vector<float> sums(static_cast<size_t>(p.columns), 1), expected = sums, d = p.d_out;
    const float scale = 64;
    float largest = 0.25f, most = 0;
    cpu::fp8_quantize({.type = DType::f32,
                       .rows = p.rows,
                       .columns = p.columns,
                       .activation = activation,
                       .x = p.x.data(),
                       .d_out = p.d_out.data(),
                       .format = Fp8Format::e5m2,
                       .scale = &scale,
                       .largest = &largest,
                       .out = out.data(),
                       .transposed = transposed.data(),
                       .column_sums = sums.data(),
                       .accumulate_sums = true});
    for (size_t i = 0; i < elements; ++i) {
      const double x = p.x[i];
      const double inner = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x), t = std::tanh(inner);
      const double slope =
          activation == Activation::identity ? 1
          : activation == Activation::squared_relu
              ? 2 * std::max(x, 0.0)
              : 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
      d[i] = static_cast<float>(p.d_out[i] * slope);
      expected[i % static_cast<size_t>(p.columns)] += d[i];
      most = std::max(most, std::abs(d[i]));
      const size_t row = i / static_cast<size_t>(p.columns), column = i % static_cast<size_t>(p.columns);
      EXPECT_EQ(out[i], transposed[column * static_cast<size_t>(p.rows) + row]);
    }
    EXPECT_NEAR(largest, most, 1e-5);
    for (size_t i = 0; i < sums.size(); ++i) EXPECT_NEAR(sums[i], expected[i], 1e-4);
  }
}

TEST(Fp8, ProductsAreThoseOfTheRoundedOperands) {
  const Problem a, b;
  const float scale = 32, inverse = 1 / scale;
  float largest = 0;
  std::vector<uint8_t> codes(a.x.size());
  const Fp8Quantize quantize{.type = DType::f32,
                             .rows = a.rows,
                             .columns = a.columns,
                             .x = a.x.data(),
                             .format = Fp8Format::e4m3,
                             .scale = &scale,
                             .largest = &largest,
                             .out = codes.data()};
  cpu::fp8_quantize(quantize);
  std::vector<float> c(static_cast<size_t>(a.rows * a.rows)), bias(static_cast<size_t>(a.rows), 0.5f);
  cpu::fp8_gemm({.type = DType::f32,
                 .out_type = DType::f32,
                 .m = a.rows,
                 .n = a.rows,
                 .k = a.columns,
                 .a = codes.data(),
                 .a_inverse = &inverse,
                 .b = codes.data(),
                 .b_inverse = &inverse,
                 .c = c.data(),
                 .bias = bias.data()});
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < a.rows; ++j) {
      double exact = 0.5, size = 0;
      for (int64_t k = 0; k < a.columns; ++k) {
        const double x = a.x[static_cast<size_t>(i * a.columns + k)],
                     y = b.x[static_cast<size_t>(j * a.columns + k)];
        exact += x * y;
        size += std::abs(x * y);
      }
      // Each operand is wrong by at most 2^-4 of itself.
      EXPECT_NEAR(c[static_cast<size_t>(i * a.rows + j)], exact, size * 0.13);
    }
}

struct Sites {
  std::vector<float> scales, largest, peaks;
  StepScalars scalars{};

  explicit Sites(size_t count, size_t ranks = 1)
      : scales(8 * count, 1), largest(count * ranks), peaks(count) {
    scalars.finite = 1;
  }
  void rescale(bool step, int64_t ranks = 1) {
    const auto count = static_cast<int64_t>(peaks.size());
    cpu::fp8_rescale({.sites = count,
                      .all_sites = count,
                      .ranks = ranks,
                      .scales = scales.data(),
                      .largest = largest.data(),
                      .peaks = peaks.data(),
                      .scalars = step ? &scalars : nullptr});
  }
};

TEST(Fp8, ScalesLeaveHeadroom) {
  Sites sites(3);
  sites.largest = {7, 0.01f, 1e-6f};
  sites.rescale(false);
  for (size_t i = 0; i < 3; ++i) {
    const Fp8Format format = fp8_format_of_site(static_cast<int64_t>(i));
    const float room = largest_of(format) / (sites.scales[8 * i] * sites.peaks[i]);
    EXPECT_GE(room, i == 2 ? 4 : 1);
    EXPECT_LE(room, i == 2 ? 32 : 8);
    EXPECT_EQ(sites.scales[8 * i] * sites.scales[8 * i + 4], 1);
    EXPECT_EQ(std::exp2(std::round(std::log2(sites.scales[8 * i]))), sites.scales[8 * i]) << "a power of two";
  }
  // Calibration sets a scale once, and keeps what the step has seen.
  sites.largest[0] = 700;
  sites.rescale(false);
  EXPECT_EQ(sites.peaks[0], 7);
  EXPECT_EQ(sites.largest[0], 700);
}

TEST(Fp8, PeaksRiseAtOnceAndSinkSlowly) {
  Sites sites(1, 2);
  sites.largest = {2, 5};
  sites.rescale(true, 2);
  EXPECT_EQ(sites.peaks[0], 5) << "the largest of the ranks";
  EXPECT_EQ(sites.largest, (std::vector<float>{0, 0}));
  sites.largest = {1, 1};
  sites.rescale(true, 2);
  EXPECT_FLOAT_EQ(sites.peaks[0], 4.5f);
  sites.scalars.finite = 0;
  sites.largest = {1000, 1};
  sites.rescale(true, 2);
  EXPECT_FLOAT_EQ(sites.peaks[0], 4.5f) << "of a step that is not finite";
  EXPECT_EQ(sites.largest[0], 0);
  Sites nothing(1);
  nothing.rescale(true);
  EXPECT_EQ(nothing.scales[0], 1);
}

}  // namespace
}  // namespace perceiver::kernels
