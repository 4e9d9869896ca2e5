// CUDA's attention over KV caches against the CPU's.
#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaCacheAttention : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaCacheAttention, ElementTypes);

TYPED_TEST(CudaCacheAttention, MatchesTheCpu) {
  using T = TypeParam;
  for (const auto& [slots, queries, heads, d, capacity] :
       {std::tuple{1, 1, 1, 4, 1}, {3, 1, 2, 64, 70}, {2, 2, 3, 24, 1000}, {1, 1, 4, 128, 20000}}) {
    const int64_t width = heads * d;
    const Values q = random_values<T>(slots * queries * width, 1),
                 rings = random_values<T>(slots * capacity * 2 * width, 2);
    Ints count;
    for (int64_t s = 0; s < slots; ++s)
      count.push_back(static_cast<int32_t>(capacity - s * capacity / slots));
    if (slots > 1) count.back() = 0;
    Values expected(static_cast<size_t>(slots * queries * width));
    kernels::CacheAttention k{};
    k.type = DType::f64;
    k.slots = slots, k.queries = queries, k.heads = heads, k.head_dim = d, k.capacity = capacity;
    k.q_stride = k.out_stride = width;
    k.q = q.data(), k.rings = rings.data(), k.count = count.data(), k.out = expected.data();
    kernels::cpu::cache_attention(k);
    const Array<T> q_device(q), rings_device(rings), out(slots * queries * width);
    const DeviceArray<int32_t> count_device(count);
    k.type = kType<T>;
    k.q = q_device.data(), k.rings = rings_device.data(), k.count = count_device.data(), k.out = out.data();
    kernels::cuda::cache_attention(this->launch(), k);
    expect_close(out.read(), expected, {bound_of<T>().relative, 1e-4}, "attention");
  }
}

}  // namespace
}  // namespace perceiver::testing
