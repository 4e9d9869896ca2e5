// Attention over a context kept as tokens against attention over the keys and values they stand for.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"
#include "perceiver/experimental/device_context.h"
#include "tests/support/cpu_kernels.h"

namespace perceiver {
namespace {

using testing::as;
using testing::attention_in_two;
using testing::defined_attention;
using testing::kElementType;
using testing::normal;

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
  kernels::cpu::rotary({.type = kElementType<T>,
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
  k.type = kElementType<T>;
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
  const std::vector<T> joined = attention_in_two<T>(k);
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_NEAR(joined[i], expected[i], sizeof(T) == 8 ? 1e-12 : 2e-5) << i << " in two parts";
}

TEST(TableAttention, MatchesItsDefinition) {
  for (const auto& [slots, heads, rotary_heads, d, bands, capacity, vocabulary] :
       {std::tuple{1, 1, 1, 2, 1, 1, 3},
        {3, 4, 2, 8, 2, 70, 13},
        {2, 3, 3, 6, 3, 700, 40},
        {2, 18, 18, 16, 4, 900, 259}}) {
    check_table<float>(slots, heads, rotary_heads, d, bands, capacity, vocabulary);
    check_table<double>(slots, heads, rotary_heads, d, bands, capacity, vocabulary);
  }
}

}  // namespace
}  // namespace perceiver
