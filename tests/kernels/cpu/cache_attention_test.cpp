// Attention over KV caches against its definition.
#include <gtest/gtest.h>

#include <bit>

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
  k.type = kElementType<T>;
  k.slots = slots, k.queries = queries, k.heads = heads, k.head_dim = d, k.capacity = capacity;
  k.q = q.data(), k.q_stride = width, k.cache = cache.data(), k.count = count.data();
  k.out = out.data(), k.out_stride = width;
  kernels::cpu::cache_attention(k);
  const std::vector<double> expected = defined_attention<T>(k);
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_NEAR(out[i], expected[i], sizeof(T) == 8 ? 1e-12 : 1e-5) << i;
  const std::vector<T> joined = attention_in_two<T>(k);
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_NEAR(joined[i], expected[i], sizeof(T) == 8 ? 1e-12 : 1e-5) << i << " in two parts";
}

TEST(CacheAttention, MatchesItsDefinition) {
  for (const auto& [slots, queries, heads, d, capacity] : {std::tuple{1, 1, 1, 1, 1},
                                                           {3, 1, 2, 8, 70},
                                                           {2, 3, 3, 5, 300},
                                                           {1, 1, 4, 64, 2000},
                                                           {4, 1, 2, 16, 5000}}) {
    check_attention<float>(slots, queries, heads, d, capacity);
    check_attention<double>(slots, queries, heads, d, capacity);
  }
}

// The same sums as of a float32 cache that holds the rounded numbers.
TEST(CacheAttention, ReadsRowsOfBf16) {
  for (const auto& [slots, queries, heads, d, capacity] :
       {std::tuple{1, 1, 1, 1, 1}, {3, 1, 2, 8, 70}, {2, 3, 3, 5, 300}, {4, 1, 2, 64, 1000}}) {
    const int64_t width = heads * d;
    const auto q = as<float>(normal(static_cast<size_t>(slots * queries * width), 1));
    auto cache = as<float>(normal(static_cast<size_t>(slots * capacity * 2 * width), 2));
    std::vector<uint16_t> narrow(cache.size());
    for (size_t i = 0; i < cache.size(); ++i) {
      narrow[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(cache[i]) >> 16);
      cache[i] = std::bit_cast<float>(uint32_t{narrow[i]} << 16);
    }
    const std::vector<int32_t> count(static_cast<size_t>(slots), static_cast<int32_t>(capacity));
    std::vector<float> wide_out(static_cast<size_t>(slots * queries * width)), narrow_out(wide_out.size());
    kernels::CacheAttention k{};
    k.type = DType::f32;
    k.slots = slots, k.queries = queries, k.heads = heads, k.head_dim = d, k.capacity = capacity;
    k.q = q.data(), k.q_stride = width, k.cache = cache.data(), k.count = count.data();
    k.out = wide_out.data(), k.out_stride = width;
    kernels::cpu::cache_attention(k);
    k.cache = narrow.data(), k.cache_type = DType::bf16, k.out = narrow_out.data();
    kernels::cpu::cache_attention(k);
    for (size_t i = 0; i < wide_out.size(); ++i) ASSERT_NEAR(narrow_out[i], wide_out[i], 1e-6) << i;
  }
}

}  // namespace
}  // namespace perceiver
