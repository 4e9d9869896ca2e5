// Attention with keys on several ranks against attention with all of them on one.
#include <gtest/gtest.h>

#include <algorithm>

#include "ops/sharded_attention.h"
#include "perceiver/experimental/host_values.h"
#include "perceiver/experimental/ops.h"
#include "tests/support/gradient_check.h"
#include "tests/support/thread_world.h"

namespace perceiver {
namespace {

using testing::random_tensor;

constexpr int64_t kBatch = 2, kHeads = 2, kHeadDim = 6, kQueries = 9, kKeys = 23, kWidth = kHeads * kHeadDim;

/// Keys [begin, end) of each example.
Tensor keys_of(const Tensor& kv, int64_t begin, int64_t end) {
  const int64_t columns = kv.shape()[1];
  std::vector<double> values;
  for (int64_t b = 0; b < kBatch; ++b) {
    const double* first = kv.as<double>() + b * kKeys * columns;
    values.insert(values.end(), first + begin * columns, first + end * columns);
  }
  return Tensor::from_host<double>(testing::cpu(), {kBatch * (end - begin), columns}, values);
}

ops::AttentionMask mask_of(const std::vector<int32_t>& limit) {
  ops::AttentionMask mask;
  mask.limit = Tensor::from_host<int32_t>(testing::cpu(), {static_cast<int64_t>(limit.size())}, limit);
  return mask;
}

/// Example 1 is short, and its first query sees nothing.
ops::AttentionMask mask_of(int64_t begin, int64_t end) {
  std::vector<int32_t> limit;
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t i = 0; i < kQueries; ++i) {
      const int64_t length = b == 1 ? kQueries - 1 : kKeys;
      limit.push_back(
          static_cast<int32_t>(std::clamp(length - kQueries + i + 1 - begin, int64_t{0}, end - begin)));
    }
  return mask_of(limit);
}

struct Result {
  std::vector<double> out, d_q, d_kv;
};

/// The numbers from `begin` to before `end`, for each example.
Tensor positions(int64_t begin, int64_t end) {
  std::vector<int32_t> all;
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t i = begin; i < end; ++i) all.push_back(static_cast<int32_t>(i));
  return Tensor::from_host<int32_t>(testing::cpu(), {static_cast<int64_t>(all.size())}, all);
}

/// Attention to the keys [begin, end), given the gradient of a result times `share`.
Result attend(int64_t begin, int64_t end, const ops::KeyShards& shards, double share, bool rotates) {
  const std::shared_ptr<DeviceContext> context = DeviceContext::cpu(1);
  const Tensor all = random_tensor({kBatch * kKeys, 2 * kWidth}, 2);
  const Variable q = Tape::leaf(random_tensor({kBatch * kQueries, kWidth}, 1)),
                 kv = Tape::leaf(keys_of(all, begin, end));
  ops::AttentionInputs inputs{.q = q,
                              .kv = kv,
                              .q_column = 0,
                              .k_column = 0,
                              .v_column = kWidth,
                              .batch = kBatch,
                              .heads = kHeads,
                              .head_dim = kHeadDim};
  if (rotates) {
    inputs.rotary = ops::make_rotary_table(*context, DType::f64, kKeys, kHeads, kHeadDim);
    inputs.query_positions = positions(kKeys - kQueries, kKeys);
    inputs.key_positions = positions(begin, end);
  }
  Tape tape(*context, true);
  const ops::AttentionMask mask = mask_of(begin, end);
  const Variable out = shards.group == nullptr ? ops::attention(tape, inputs, mask)
                                               : ops::sharded_attention(tape, inputs, mask, shards);
  tape.give(out, random_tensor(out.shape(), 3, share));
  const std::vector<double> values = host_doubles(out.value);
  tape.backward();
  return {values, host_doubles(q.gradient->tensor), host_doubles(kv.gradient->tensor)};
}

void expect_near(const std::vector<double>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-13) << i;
}

/// The results of all ranks. The first has fewer keys than the others.
std::vector<Result> attend_on(int ranks, bool replicates, bool rotates) {
  std::vector<Result> results(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](ThreadWorld& world) {
    const auto group = world.communicator(testing::cpu(), true);
    const int64_t r = world.rank(), begin = r * r * kKeys / (ranks * ranks),
                  end = (r + 1) * (r + 1) * kKeys / (ranks * ranks);
    results[static_cast<size_t>(r)] =
        attend(begin, end, {.group = group.get(), .replicates_d_q = replicates}, 1.0 / ranks, rotates);
  });
  return results;
}

void expect_attention_on_one_rank(bool rotates) {
  const Result whole = attend(0, kKeys, {}, 1, rotates);
  for (const int ranks : {1, 2, 3, 4})
    for (const bool replicates : {false, true}) {
      SCOPED_TRACE(ranks);
      const std::vector<Result> results = attend_on(ranks, replicates, rotates);
      std::vector<double> d_q(whole.d_q.size(), 0);
      for (int r = 0; r < ranks; ++r) {
        const Result& own = results[static_cast<size_t>(r)];
        EXPECT_EQ(own.out, results[0].out);
        expect_near(own.out, whole.out);
        if (replicates) {
          EXPECT_EQ(own.d_q, results[0].d_q);
        }
        for (size_t i = 0; i < d_q.size(); ++i) d_q[i] += own.d_q[i];
        const Tensor d_kv =
            Tensor::from_host<double>(testing::cpu(), {kBatch * kKeys, 2 * kWidth}, whole.d_kv);
        expect_near(own.d_kv, host_doubles(keys_of(d_kv, r * r * kKeys / (ranks * ranks),
                                                   (r + 1) * (r + 1) * kKeys / (ranks * ranks))));
      }
      expect_near(d_q, whole.d_q);
    }
}

TEST(ShardedAttention, EqualsAttentionOnOneRank) {
  expect_attention_on_one_rank(false);
}
TEST(ShardedAttention, RotatesAsOnOneRank) {
  expect_attention_on_one_rank(true);
}

TEST(ShardedAttention, FloatsAverageTheirGradients) {
  run_ranks(3, [](ThreadWorld& world) {
    const std::shared_ptr<DeviceContext> context = DeviceContext::cpu(1);
    const auto group = world.communicator(*context, true);
    Tape tape(*context, true);
    const Variable q = Tape::leaf(random_tensor({4, 2}, 1, 1, 0, DType::f32)),
                   kv = Tape::leaf(
                       random_tensor({5, 4}, static_cast<uint32_t>(world.rank()), 1, 0, DType::f32));
    const Variable out =
        ops::sharded_attention(tape,
                               {.q = q,
                                .kv = kv,
                                .q_column = 0,
                                .k_column = 0,
                                .v_column = 2,
                                .batch = 1,
                                .heads = 1,
                                .head_dim = 2},
                               mask_of({5, 5, 5, 5}), {.group = group.get(), .replicates_d_q = true});
    tape.give(out, random_tensor(out.shape(), 3, 1, 0, DType::f32));
    tape.backward();
    std::string bytes(q.gradient->tensor.bytes(), 0);
    std::memcpy(bytes.data(), q.gradient->tensor.data(), bytes.size());
    for (const std::string& other : world.gather(bytes, "test")) EXPECT_EQ(other, bytes);
  });
}

}  // namespace
}  // namespace perceiver
