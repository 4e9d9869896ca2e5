// Attention over parts of the keys, joined, against attention over all of them.
#include "kernels/attention_join.h"

#include <gtest/gtest.h>

#include "tests/support/cpu_kernels.h"

#include <utility>

namespace perceiver::testing {
namespace {

constexpr int64_t kBatch = 2, kHeads = 3, kQueries = 37, kKeys = 210, kHeadDim = 5,
                  kWidth = kHeads * kHeadDim;
constexpr double kSentinel = 12345;

template <typename T>
struct Attended {
  std::vector<T> out, lse;
};

/// Attention to the keys [begin, end) of every example; query i sees those before limit[i].
template <typename T>
Attended<T> attend(const std::vector<T>& q, const std::vector<T>& kv, const std::vector<int32_t>& limit,
                   int64_t begin, int64_t end) {
  const int64_t keys = end - begin;
  std::vector<T> own(static_cast<size_t>(kBatch * keys * 2 * kWidth) + 1);
  std::vector<int32_t> own_limit;
  for (int64_t b = 0; b < kBatch; ++b)
    std::copy_n(kv.begin() + (b * kKeys + begin) * 2 * kWidth, keys * 2 * kWidth,
                own.begin() + b * keys * 2 * kWidth);
  for (const int32_t all : limit)
    own_limit.push_back(static_cast<int32_t>(std::clamp<int64_t>(all - begin, 0, keys)));
  Attended<T> result{std::vector<T>(static_cast<size_t>(kBatch * kQueries * kWidth)),
                     std::vector<T>(static_cast<size_t>(kBatch * kHeads * kQueries))};
  kernels::Attention k{};
  k.type = kElementType<T>;
  k.batch = kBatch, k.heads = kHeads, k.queries = kQueries, k.keys = keys, k.head_dim = kHeadDim;
  k.q = q.data(), k.q_stride = kWidth;
  k.k = own.data(), k.v = own.data() + kWidth, k.kv_stride = 2 * kWidth;
  k.limit = own_limit.data();
  k.out = result.out.data(), k.out_stride = kWidth;
  k.lse = result.lse.data();
  kernels::attention({}, k);
  return result;
}

/// The join of `parts`, between sentinels.
template <typename T>
Attended<T> join(const std::vector<Attended<T>>& parts) {
  const size_t outs = parts[0].out.size(), lses = parts[0].lse.size(), piece = outs + lses + 3;
  std::vector<T> all(piece * parts.size(), T(kSentinel));
  for (size_t p = 0; p < parts.size(); ++p) {
    std::copy(parts[p].out.begin(), parts[p].out.end(), all.begin() + piece * p);
    std::copy(parts[p].lse.begin(), parts[p].lse.end(), all.begin() + piece * p + outs);
  }
  Attended<T> result{std::vector<T>(outs + 1, T(kSentinel)), std::vector<T>(lses + 1, T(kSentinel))};
  kernels::attention_join({}, {.type = kElementType<T>,
                               .parts = static_cast<int64_t>(parts.size()),
                               .batch = kBatch,
                               .heads = kHeads,
                               .queries = kQueries,
                               .head_dim = kHeadDim,
                               .part_out = all.data(),
                               .part_lse = all.data() + outs,
                               .part_bytes = static_cast<int64_t>(piece * sizeof(T)),
                               .out = result.out.data(),
                               .lse = result.lse.data()});
  EXPECT_EQ(result.out.back(), T(kSentinel));
  EXPECT_EQ(result.lse.back(), T(kSentinel));
  result.out.pop_back();
  result.lse.pop_back();
  return result;
}

/// Queries whose limits rise from 0, so that the first see nothing and many see nothing of the later parts.
std::vector<int32_t> rising_limits() {
  std::vector<int32_t> limit;
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t i = 0; i < kQueries; ++i)
      limit.push_back(static_cast<int32_t>(std::clamp<int64_t>((i - 2) * 7, 0, kKeys - 60 * b)));
  return limit;
}

template <typename T>
void expect_whole(double tolerance) {
  const auto q = as<T>(normal(kBatch * kQueries * kWidth, 1)),
             kv = as<T>(normal(kBatch * kKeys * 2 * kWidth, 2));
  const std::vector<int32_t> limit = rising_limits();
  const Attended<T> whole = attend(q, kv, limit, 0, kKeys);
  for (const std::vector<int64_t>& ends :
       {std::vector<int64_t>{kKeys}, {100, kKeys}, {1, 130, kKeys}, {70, 70, 140, kKeys}}) {
    std::vector<Attended<T>> parts;
    int64_t begin = 0;
    for (const int64_t end : ends) parts.push_back(attend(q, kv, limit, std::exchange(begin, end), end));
    const Attended<T> joined = join(parts);
    for (size_t i = 0; i < whole.out.size(); ++i) ASSERT_NEAR(joined.out[i], whole.out[i], tolerance) << i;
    for (size_t i = 0; i < whole.lse.size(); ++i) {
      if (std::isinf(whole.lse[i])) {
        ASSERT_EQ(joined.lse[i], whole.lse[i]) << i;
      } else {
        ASSERT_NEAR(joined.lse[i], whole.lse[i], 10 * tolerance) << i;
      }
    }
    if (ends.size() == 1) {
      EXPECT_EQ(joined.out, whole.out);
    }
  }
}

TEST(AttentionJoin, EqualsAttentionToAllKeys) {
  expect_whole<double>(1e-14);
  expect_whole<float>(2e-6);
}

TEST(AttentionJoin, WhereNothingIsSeenTheResultIsZero) {
  const Attended<double> blind{std::vector<double>(kBatch * kQueries * kWidth, 0),
                               std::vector<double>(kBatch * kHeads * kQueries, INFINITY)};
  const Attended<double> joined = join<double>({blind, blind, blind});
  EXPECT_EQ(joined.out, blind.out);
  EXPECT_EQ(joined.lse, blind.lse);
}

TEST(AttentionJoin, LargeLogSumExpsDoNotOverflowAndNaNStays) {
  Attended<double> one{std::vector<double>(kBatch * kQueries * kWidth, 1),
                       std::vector<double>(kBatch * kHeads * kQueries, 5000)},
      three{std::vector<double>(kBatch * kQueries * kWidth, 3),
            std::vector<double>(kBatch * kHeads * kQueries, 5000 + std::log(3))};
  const Attended<double> joined = join<double>({one, three});
  for (const double x : joined.out) ASSERT_NEAR(x, 2.5, 1e-11);
  for (const double x : joined.lse) ASSERT_NEAR(x, 5000 + std::log(4), 1e-11);
  one.lse.assign(one.lse.size(), NAN);
  for (const double x : join<double>({one, three}).out) ASSERT_TRUE(std::isnan(x));
}

}  // namespace
}  // namespace perceiver::testing
