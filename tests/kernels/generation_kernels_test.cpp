// The CPU kernels of generation against their definitions.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>
#include <random>

#include "core/device_context.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"

namespace perceiver {
namespace {

std::vector<double> normal(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> distribution;
  std::vector<double> values(count);
  for (double& x : values) x = distribution(generator);
  return values;
}

template <typename T>
std::vector<T> as(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

template <typename T>
constexpr DType kType = std::is_same_v<T, double> ? DType::f64 : DType::f32;

template <typename T>
void check_products(int64_t rows, int64_t columns, int64_t depth) {
  const auto x = as<T>(normal(static_cast<size_t>(rows * depth), 1)),
             weight = as<T>(normal(static_cast<size_t>(columns * depth), 2)),
             bias = as<T>(normal(static_cast<size_t>(columns), 3));
  std::vector<T> out(static_cast<size_t>(rows * columns));
  kernels::cpu::skinny_gemm({.type = kType<T>,
                             .weight_type = kType<T>,
                             .rows = rows,
                             .columns = columns,
                             .depth = depth,
                             .x = x.data(),
                             .weight = weight.data(),
                             .bias = bias.data(),
                             .out = out.data()});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      double sum = static_cast<double>(bias[c]);
      for (int64_t i = 0; i < depth; ++i)
        sum += static_cast<double>(x[r * depth + i]) * static_cast<double>(weight[c * depth + i]);
      ASSERT_NEAR(out[r * columns + c], sum, sizeof(T) == 8 ? 1e-12 : 2e-4) << r << ' ' << c;
    }
  }
  // A row alone gives the same result bit for bit.
  std::vector<T> alone(static_cast<size_t>(columns));
  for (int64_t r = 0; r < rows; ++r) {
    kernels::cpu::skinny_gemm({.type = kType<T>,
                               .weight_type = kType<T>,
                               .rows = 1,
                               .columns = columns,
                               .depth = depth,
                               .x = x.data() + r * depth,
                               .weight = weight.data(),
                               .bias = bias.data(),
                               .out = alone.data()});
    ASSERT_TRUE(std::equal(alone.begin(), alone.end(), out.begin() + r * columns)) << r;
  }
}

TEST(GenerationKernels, SkinnyGemm) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 9, 64})
    for (const auto& [columns, depth] : {std::pair{1, 1}, {7, 5}, {13, 64}, {33, 100}, {160, 257}}) {
      check_products<float>(rows, columns, depth);
      check_products<double>(rows, columns, depth);
    }
}

TEST(GenerationKernels, SkinnyGemmWithBf16WeightsUsesTheRoundedValues) {
  const int64_t rows = 3, columns = 21, depth = 70;
  const auto x = as<float>(normal(rows * depth, 1)), given = as<float>(normal(columns * depth, 2));
  std::vector<uint16_t> bf16;
  std::vector<float> rounded;
  for (const float value : given) {
    bf16.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    rounded.push_back(std::bit_cast<float>(static_cast<uint32_t>(bf16.back()) << 16));
  }
  std::vector<float> out(rows * columns), expected(rows * columns);
  kernels::cpu::skinny_gemm({.type = DType::f32,
                             .weight_type = DType::bf16,
                             .rows = rows,
                             .columns = columns,
                             .depth = depth,
                             .x = x.data(),
                             .weight = bf16.data(),
                             .out = out.data()});
  kernels::cpu::skinny_gemm({.type = DType::f32,
                             .weight_type = DType::f32,
                             .rows = rows,
                             .columns = columns,
                             .depth = depth,
                             .x = x.data(),
                             .weight = rounded.data(),
                             .out = expected.data()});
  EXPECT_EQ(out, expected);
}

/// Cache attention by definition: softmax of all scores at once.
template <typename T>
std::vector<double> defined_attention(const kernels::CacheAttention& k) {
  const int64_t d = k.head_dim, width = k.heads * d;
  std::vector<double> out(static_cast<size_t>(k.slots * k.queries * width), 0);
  for (int64_t row = 0; row < k.slots * k.queries; ++row) {
    const int64_t slot = row / k.queries;
    for (int64_t h = 0; h < k.heads; ++h) {
      std::vector<double> weights;
      double largest = -INFINITY;
      for (int64_t n = 0; n < k.count[slot]; ++n) {
        double score = 0;
        for (int64_t c = 0; c < d; ++c)
          score += static_cast<double>(static_cast<const T*>(k.q)[row * width + h * d + c]) *
                   static_cast<double>(
                       static_cast<const T*>(k.cache)[(slot * k.capacity + n) * 2 * width + h * d + c]);
        weights.push_back(score / std::sqrt(static_cast<double>(d)));
        largest = std::max(largest, weights.back());
      }
      double sum = 0;
      for (double& w : weights) sum += w = std::exp(w - largest);
      for (size_t n = 0; n < weights.size(); ++n)
        for (int64_t c = 0; c < d; ++c)
          out[static_cast<size_t>(row * width + h * d + c)] +=
              weights[n] / sum *
              static_cast<double>(static_cast<const T*>(
                  k.cache)[(slot * k.capacity + static_cast<int64_t>(n)) * 2 * width + width + h * d + c]);
    }
  }
  return out;
}

template <typename T>
void check_attention(int64_t slots, int64_t queries, int64_t heads, int64_t d, int64_t capacity) {
  const int64_t width = heads * d;
  const auto q = as<T>(normal(static_cast<size_t>(slots * queries * width), 1)),
             cache = as<T>(normal(static_cast<size_t>(slots * capacity * 2 * width), 2));
  std::vector<int32_t> count;
  for (int64_t s = 0; s < slots; ++s) count.push_back(static_cast<int32_t>(capacity - s * capacity / slots));
  count.back() = slots > 1 ? 0 : count.back();
  std::vector<T> out(static_cast<size_t>(slots * queries * width), T(77));
  kernels::CacheAttention k{};
  k.type = kType<T>;
  k.slots = slots, k.queries = queries, k.heads = heads, k.head_dim = d, k.capacity = capacity;
  k.q = q.data(), k.q_stride = width, k.cache = cache.data(), k.count = count.data();
  k.out = out.data(), k.out_stride = width;
  kernels::cpu::cache_attention(k);
  const std::vector<double> expected = defined_attention<T>(k);
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_NEAR(out[i], expected[i], sizeof(T) == 8 ? 1e-12 : 1e-5) << i;
}

TEST(GenerationKernels, CacheAttention) {
  for (const auto& [slots, queries, heads, d, capacity] : {std::tuple{1, 1, 1, 1, 1},
                                                           {3, 1, 2, 8, 70},
                                                           {2, 3, 3, 5, 300},
                                                           {1, 1, 4, 64, 2000},
                                                           {4, 1, 2, 16, 5000}}) {
    check_attention<float>(slots, queries, heads, d, capacity);
    check_attention<double>(slots, queries, heads, d, capacity);
  }
}

/// Attention by table against the cache that the table and the rotations stand for.
template <typename T>
void check_table(int64_t slots, int64_t heads, int64_t rotary_heads, int64_t d, int64_t bands,
                 int64_t capacity, int64_t vocabulary) {
  const int64_t width = heads * d, positions = 3 * capacity;
  const auto q = as<T>(normal(static_cast<size_t>(slots * width), 1)),
             table = as<T>(normal(static_cast<size_t>(vocabulary * 2 * width), 2));
  std::vector<T> cosine, sine;
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < bands; ++i) {
      cosine.push_back(
          static_cast<T>(std::cos(static_cast<double>(p) / std::pow(7.0, static_cast<double>(i)))));
      sine.push_back(
          static_cast<T>(std::sin(static_cast<double>(p) / std::pow(7.0, static_cast<double>(i)))));
    }
  std::mt19937 generator(4);
  std::vector<int32_t> tokens, place, count;
  for (int64_t i = 0; i < slots * capacity; ++i) {
    tokens.push_back(static_cast<int32_t>(generator() % static_cast<uint32_t>(vocabulary)));
    place.push_back(static_cast<int32_t>(generator() % static_cast<uint32_t>(2 * positions - 1)) -
                    static_cast<int32_t>(positions - 1));
  }
  for (int64_t s = 0; s < slots; ++s) count.push_back(static_cast<int32_t>(capacity / (s + 1)));
  std::vector<T> cache(static_cast<size_t>(slots * capacity * 2 * width)),
      out(static_cast<size_t>(slots * width));
  for (int64_t i = 0; i < slots * capacity; ++i)
    std::copy_n(table.begin() + tokens[static_cast<size_t>(i)] * 2 * width, 2 * width,
                cache.begin() + i * 2 * width);
  kernels::cpu::rotary({.type = kType<T>,
                        .rows = slots * capacity,
                        .row_stride = 2 * width,
                        .heads = rotary_heads,
                        .head_dim = d,
                        .bands = bands,
                        .x = cache.data(),
                        .positions = place.data(),
                        .cosine = cosine.data(),
                        .sine = sine.data()});
  kernels::CacheAttention k{};
  k.type = kType<T>;
  k.slots = slots, k.queries = 1, k.heads = heads, k.head_dim = d, k.capacity = capacity;
  k.q = q.data(), k.q_stride = width, k.cache = cache.data(), k.count = count.data();
  k.out = out.data(), k.out_stride = width;
  const std::vector<double> expected = defined_attention<T>(k);
  k.cache = nullptr, k.table = table.data(), k.vocabulary = vocabulary;
  k.tokens = tokens.data(), k.positions = place.data(), k.cosine = cosine.data(), k.sine = sine.data();
  k.bands = bands, k.rotary_heads = rotary_heads;
  kernels::cpu::cache_attention(k);
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_NEAR(out[i], expected[i], sizeof(T) == 8 ? 1e-12 : 2e-5) << i;
}

TEST(GenerationKernels, CacheAttentionByTable) {
  for (const auto& [slots, heads, rotary_heads, d, bands, capacity, vocabulary] :
       {std::tuple{1, 1, 1, 2, 1, 1, 3},
        {3, 4, 2, 8, 2, 70, 13},
        {2, 3, 3, 6, 3, 700, 40},
        {2, 18, 18, 16, 4, 900, 259}}) {
    check_table<float>(slots, heads, rotary_heads, d, bands, capacity, vocabulary);
    check_table<double>(slots, heads, rotary_heads, d, bands, capacity, vocabulary);
  }
}

TEST(GenerationKernels, WriteRowsWrapsAround) {
  const std::vector<float> source{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};  // 3 slots of 2 rows of 2
  std::vector<float> cache(3 * 4 * 2, 0);
  const std::vector<int32_t> row{3, 1, 0}, active{1, 0, 1};
  kernels::cpu::write_rows({.type = DType::f32,
                            .slots = 3,
                            .copies = 2,
                            .columns = 2,
                            .source = source.data(),
                            .source_stride = 2,
                            .row = row.data(),
                            .active = active.data(),
                            .target = cache.data(),
                            .capacity = 4});
  const std::vector<float> expected{3, 4, 0, 0, 0, 0,  1,  2,  0, 0, 0, 0,
                                    0, 0, 0, 0, 9, 10, 11, 12, 0, 0, 0, 0};
  EXPECT_EQ(cache, expected);
}

TEST(GenerationKernels, SlotsAdvanceAfterSampling) {
  std::vector<int32_t> active{1, 0, 1}, step{4, 4, 0}, position{9, 9, 1}, context_count{5, 5, 1},
      context_row{4, 4, 0}, latent_count{4, 4, 2}, latent_row{2, 2, 0}, query(6, -1);
  const std::vector<float> logits{0, 0, 0, 1, 9, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0};
  std::vector<kernels::SamplingParameters> settings(3);
  for (kernels::SamplingParameters& own : settings) own.temperature = 0;
  std::vector<uint8_t> seen(15);
  std::vector<int32_t> token(3, -5), posted(3, -5);
  std::vector<double> probability(3);
  const kernels::AdvanceSlots next{.slots = 3,
                                   .context_capacity = 5,
                                   .latent_capacity = 4,
                                   .copies = 2,
                                   .active = active.data(),
                                   .step = step.data(),
                                   .position = position.data(),
                                   .context_count = context_count.data(),
                                   .context_row = context_row.data(),
                                   .latent_count = latent_count.data(),
                                   .latent_row = latent_row.data(),
                                   .query_position = query.data(),
                                   .query_offset = 1};
  kernels::cpu::sample({.type = DType::f32,
                        .slots = 3,
                        .vocabulary = 5,
                        .logits = logits.data(),
                        .parameters = settings.data(),
                        .seen = seen.data(),
                        .step = step.data(),
                        .active = active.data(),
                        .token = token.data(),
                        .log_probability = probability.data(),
                        .posted = posted.data(),
                        .next = next});
  EXPECT_EQ(token, (std::vector<int32_t>{4, -5, 1}));
  EXPECT_EQ(posted, (std::vector<int32_t>{4, -5, 1}));
  EXPECT_EQ(step, (std::vector<int32_t>{5, 4, 1}));
  EXPECT_EQ(position, (std::vector<int32_t>{10, 9, 2}));
  EXPECT_EQ(context_count, (std::vector<int32_t>{5, 5, 2}));
  EXPECT_EQ(context_row, (std::vector<int32_t>{0, 4, 1}));
  EXPECT_EQ(latent_count, (std::vector<int32_t>{4, 4, 4}));
  EXPECT_EQ(latent_row, (std::vector<int32_t>{0, 2, 2}));
  EXPECT_EQ(query, (std::vector<int32_t>{11, 11, -1, -1, 3, 3}));
}

}  // namespace
}  // namespace perceiver
