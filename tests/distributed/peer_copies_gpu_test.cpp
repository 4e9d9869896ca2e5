// Sums and gathers by copy engines. The ranks are threads that share one GPU, which differs from processes
// with a GPU each only in how addresses are found (tools/multi_gpu_test.sh has those).
#include "distributed/peer_copies.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "kernels/ranks.h"
#include "tests/support/gpu.h"
#include "tests/support/thread_world.h"

namespace perceiver {
namespace {

using Kind = PeerCopies::Kind;

/// Streams that share one of the GPU's queues would wait for each other. Read when CUDA starts, in this
/// process or in the next test's.
[[maybe_unused]] const int queues = setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);

constexpr int64_t kElements = 240 << 10;  // of a tensor; divides by 16 x 2, 3 and 5

std::vector<float> values_of(int rank, int64_t elements) {
  std::mt19937 generator(static_cast<uint32_t>(rank));
  std::uniform_real_distribution<float> distribution(-1, 1);
  std::vector<float> values(static_cast<size_t>(elements));
  for (float& x : values) x = distribution(generator);
  return values;
}

/// The sum of what the ranks have, in their order.
std::vector<float> sum_of(const std::vector<std::vector<float>>& ranks) {
  std::vector<float> sum = ranks[0];
  for (size_t rank = 1; rank < ranks.size(); ++rank)
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += ranks[rank][i];
  return sum;
}

std::vector<float> sum_of_ranks(int ranks, int64_t elements) {
  std::vector<std::vector<float>> all;
  for (int rank = 0; rank < ranks; ++rank) all.push_back(values_of(rank, elements));
  return sum_of(all);
}

struct Rank {
  explicit Rank(ThreadWorld& ranks) : world(ranks), context(DeviceContext::cuda(0, 1)) {
    std::string obstacle;
    copies = PeerCopies::open(
        *context, context->launch().stream, world.rank(), world.size(),
        [this](const std::string& mine) { return world.gather(mine, ""); }, obstacle);
    EXPECT_EQ(obstacle, "");
    load_kernels();
  }
  Tensor exposed(int64_t elements) {
    const Tensor x =
        Tensor::from_host(*context, {elements}, std::span<const float>(values_of(world.rank(), elements)));
    copies->expose(x);
    return x;
  }
  void run(Kind kind, const Tensor& x) {
    const PeerCopies::Call call{kind, x};
    copies->run(std::span(&call, 1));
  }
  /// Loading a kernel's code waits for the device, which may be waiting for this thread: of both, for aligned
  /// and for other addresses.
  void load_kernels() {
    const Tensor x = Tensor::zeros(*context, DType::f32, {16});
    for (const int64_t others : {4, 5})
      kernels::sum_pieces(context->launch(), {.type = DType::f32,
                                              .elements = 4,
                                              .own = 0,
                                              .count = 2,
                                              .others = x.as<float>() + others,
                                              .sum = x.data()});
    context->synchronize();
    world.gather("", "");
  }
  ~Rank() {
    context->synchronize();
    world.gather("", "");  // freeing memory waits for the device, too
  }

  ThreadWorld& world;
  std::shared_ptr<DeviceContext> context;
  std::unique_ptr<PeerCopies> copies;
};

class PeerCopiesGpu : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, PeerCopiesGpu, ::testing::Values(2, 3, 5));

TEST_P(PeerCopiesGpu, EachRankHasTheSumsOfItsPiece) {
  SKIP_WITHOUT_GPU();
  const std::vector<float> expected = sum_of_ranks(GetParam(), kElements);
  run_ranks(GetParam(), [&](ThreadWorld& world) {
    Rank rank(world);
    const Tensor x = rank.exposed(kElements);
    rank.run(Kind::reduce_scatter, x);
    rank.copies->join();
    const std::vector<float> got = x.to_host<float>();
    const int64_t piece = kElements / world.size(), first = world.rank() * piece;
    for (int64_t i = first; i < first + piece; ++i)
      ASSERT_EQ(got[static_cast<size_t>(i)], expected[static_cast<size_t>(i)]) << i;
  });
}

TEST_P(PeerCopiesGpu, MoreCallsThanTurnsBetweenJoins) {
  SKIP_WITHOUT_GPU();
  constexpr int kCalls = 11;
  const std::vector<float> expected = sum_of_ranks(GetParam(), kElements);
  run_ranks(GetParam(), [&](ThreadWorld& world) {
    Rank rank(world);
    std::vector<Tensor> tensors;
    for (int call = 0; call < kCalls; ++call) tensors.push_back(rank.exposed(kElements));
    for (const Tensor& x : tensors) rank.run(Kind::reduce_scatter, x);
    for (const Tensor& x : tensors) rank.run(Kind::all_gather, x);
    rank.copies->join();
    for (const Tensor& x : tensors) EXPECT_EQ(x.to_host<float>(), expected);
  });
}

// Of two ranks: the streams of a recording choose their queues themselves, and there are not many.
TEST(PeerCopiesGpu, RecordedWorkIsReplayed) {
  SKIP_WITHOUT_GPU();
  constexpr int kReplays = 5;
  std::vector<float> expected = sum_of_ranks(2, kElements);
  for (int replay = 1; replay < kReplays; ++replay) expected = sum_of({expected, expected});
  run_ranks(2, [&](ThreadWorld& world) {
    Rank rank(world);
    const Tensor x = rank.exposed(kElements);
    const auto work = rank.context->record([&] {
      rank.run(Kind::reduce_scatter, x);
      rank.run(Kind::all_gather, x);
      rank.copies->join();
    });
    world.gather("", "");  // making a graph may wait for the device, too
    for (int replay = 0; replay < kReplays; ++replay) work->replay();
    EXPECT_EQ(x.to_host<float>(), expected);
  });
}

TEST_P(PeerCopiesGpu, ManySumsOfAnySizeTogether) {
  SKIP_WITHOUT_GPU();
  std::vector<int64_t> sizes{1, 15, 33, 1000, 4096, kElements, 70001};
  while (sizes.size() < 40) sizes.push_back(static_cast<int64_t>(sizes.size()));
  run_ranks(GetParam(), [&](ThreadWorld& world) {
    Rank rank(world);
    std::vector<PeerCopies::Call> calls;
    for (const int64_t elements : sizes) calls.push_back({Kind::all_reduce, rank.exposed(elements)});
    rank.copies->run(calls);
    rank.copies->join();
    for (size_t i = 0; i < sizes.size(); ++i)
      EXPECT_EQ(calls[i].x.to_host<float>(), sum_of_ranks(GetParam(), sizes[i])) << sizes[i];
  });
}

TEST(PeerCopiesGpu, APieceThatIsLargerThanTheStagingMemory) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kMany = 2 * ((9 << 20) + 16);
  const std::vector<float> expected = sum_of_ranks(2, kMany);
  run_ranks(2, [&](ThreadWorld& world) {
    Rank rank(world);
    const Tensor x = rank.exposed(kMany);
    rank.run(Kind::reduce_scatter, x);
    rank.run(Kind::all_gather, x);
    rank.copies->join();
    EXPECT_EQ(x.to_host<float>(), expected);
  });
}

TEST(PeerCopiesGpu, APartOfATensorOfAnyType) {
  SKIP_WITHOUT_GPU();
  run_ranks(2, [&](ThreadWorld& world) {
    Rank rank(world);
    const Tensor whole = Tensor::zeros(*rank.context, DType::bf16, {3 * kElements});
    rank.copies->expose(whole);
    const Tensor x = whole.view(kElements, {kElements});
    const std::vector<uint16_t> own(kElements / 2, static_cast<uint16_t>(world.rank() + 1));
    x.view(world.rank() * kElements / 2, {kElements / 2}).copy_from_host(std::as_bytes(std::span(own)));
    ASSERT_TRUE(rank.copies->takes(x));
    rank.run(Kind::all_gather, x);
    rank.copies->join();
    const auto got = whole.to_host<uint16_t>();
    for (size_t i = 0; i < got.size(); ++i) {
      const size_t part = i / (kElements / 2);
      ASSERT_EQ(got[i], part == 2 ? 1 : part == 3 ? 2 : 0) << i;
    }
  });
}

TEST(PeerCopiesGpu, AbandonedCopiesWaitForNobody) {
  SKIP_WITHOUT_GPU();
  run_ranks(2, [&](ThreadWorld& world) {
    Rank rank(world);
    const Tensor x = rank.exposed(kElements);
    if (world.leads()) {  // the other one does not come
      rank.run(Kind::all_reduce, x);
      rank.copies->join();
      rank.copies->abandon();
    }
    rank.context->synchronize();
  });
}

TEST(PeerCopiesGpu, TakesWhatIsExposed) {
  SKIP_WITHOUT_GPU();
  run_ranks(2, [&](ThreadWorld& world) {
    Rank rank(world);
    const Tensor x = rank.exposed(kElements);
    EXPECT_TRUE(rank.copies->takes(x));
    EXPECT_TRUE(rank.copies->takes(x.view(5, {64})));
    EXPECT_FALSE(rank.copies->takes(Tensor::zeros(*rank.context, DType::f32, {kElements})));
  });
}

}  // namespace
}  // namespace perceiver
