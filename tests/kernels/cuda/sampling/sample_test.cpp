#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaSample : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaSample, ElementTypes);

TYPED_TEST(CudaSample, SlotsMoveOnOnceTheyHaveChosen) {
  using T = TypeParam;
  const Array<T> logits(Values{0, 0, 0, 1, 9, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0});
  std::vector<kernels::SampleSettings> likeliest(3);
  for (kernels::SampleSettings& own : likeliest) own.temperature = 0;
  const DeviceArray<kernels::SampleSettings> settings(likeliest);
  const DeviceArray<uint8_t> seen(std::vector<uint8_t>(15));
  const DeviceArray<double> probability(Values(3, 0));
  const DeviceArray<int32_t> active(Ints{1, 0, 1}), token(Ints(3, -5)), posted(Ints(3, -5)),
      step(Ints{4, 4, 0}), position(Ints{9, 9, 1}), context_count(Ints{5, 5, 1}), context_row(Ints{4, 4, 0}),
      latent_count(Ints{4, 4, 2}), latent_row(Ints{2, 2, 0}), query(Ints(6, -1));
  const kernels::AdvanceSlots next{3,
                                   5,
                                   4,
                                   2,
                                   active.data(),
                                   step.data(),
                                   position.data(),
                                   context_count.data(),
                                   context_row.data(),
                                   latent_count.data(),
                                   latent_row.data(),
                                   query.data(),
                                   1};
  kernels::cuda::sample(this->launch(),
                        {kType<T>, 3, 5, logits.data(), settings.data(), nullptr, seen.data(), step.data(),
                         active.data(), token.data(), probability.data(), posted.data(), next});
  EXPECT_EQ(token.read(), (Ints{4, -5, 1}));
  EXPECT_EQ(posted.read(), (Ints{4, -5, 1}));
  EXPECT_EQ(step.read(), (Ints{5, 4, 1}));
  EXPECT_EQ(position.read(), (Ints{10, 9, 2}));
  EXPECT_EQ(context_count.read(), (Ints{5, 5, 2}));
  EXPECT_EQ(context_row.read(), (Ints{0, 4, 1}));
  EXPECT_EQ(latent_count.read(), (Ints{4, 4, 4}));
  EXPECT_EQ(latent_row.read(), (Ints{0, 2, 2}));
  EXPECT_EQ(query.read(), (Ints{11, 11, -1, -1, 3, 3}));
}

TYPED_TEST(CudaSample, SamplesWhatTheCpuSamples) {
  using T = TypeParam;
  constexpr int64_t kSlots = 40;
  for (const int64_t vocabulary : {int64_t{259}, int64_t{768}, int64_t{32000}, int64_t{131072}}) {
    const Values logits = random_values<T>(kSlots * vocabulary, 5, 3);
    std::vector<kernels::SampleSettings> settings(kSlots);
    std::vector<uint8_t> seen(static_cast<size_t>(kSlots * vocabulary));
    for (size_t i = 0; i < seen.size(); ++i) seen[i] = i % 3 == 0;
    std::vector<float> bias(static_cast<size_t>(2 * vocabulary), 0.0f);
    for (size_t i = 0; i < bias.size(); ++i)
      bias[i] = i % 5 == 0 ? -INFINITY : 0.25f * static_cast<float>(i % 7);
    Ints step, active;
    for (int64_t s = 0; s < kSlots; ++s) {
      kernels::SampleSettings& own = settings[static_cast<size_t>(s)];
      own.temperature = s % 5 == 0 ? 0 : 0.3 * static_cast<double>(s % 5);
      own.top_k = s % 3 == 0 ? 0 : static_cast<int32_t>(1 + 20 * (s % 4));
      own.top_p = s % 4 == 0 ? 1 : 0.3 + 0.2 * static_cast<double>(s % 4);
      own.min_p = s % 7 == 0 ? 0.05 : 0;
      own.repetition_penalty = s % 2 == 0 ? 1 : 1.2;
      own.seed = 0x1234567890ull + static_cast<uint64_t>(s);
      own.sequence = static_cast<uint32_t>(s);
      own.bias_row = s % 6 == 0 ? 0 : -1;
      own.bias_period = 2;
      own.may_end = static_cast<int32_t>(s % 2);
      step.push_back(static_cast<int32_t>(s * 3));
      active.push_back(s == 17 ? 0 : 1);
    }
    Ints token(kSlots, -5);
    Values probability(kSlots, 0);
    std::vector<uint8_t> cpu_seen = seen;
    kernels::cpu::sample({DType::f64,
                          kSlots,
                          vocabulary,
                          logits.data(),
                          settings.data(),
                          bias.data(),
                          cpu_seen.data(),
                          step.data(),
                          active.data(),
                          token.data(),
                          probability.data(),
                          nullptr,
                          {}});
    const Array<T> logits_device(logits);
    const DeviceArray<kernels::SampleSettings> settings_device(settings);
    const DeviceArray<uint8_t> seen_device(seen);
    const DeviceArray<float> bias_device(bias);
    const DeviceArray<int32_t> step_device(step), active_device(active), token_device(Ints(kSlots, -5));
    const DeviceArray<double> probability_device(Values(kSlots, 0));
    kernels::cuda::sample(this->launch(), {kType<T>,
                                           kSlots,
                                           vocabulary,
                                           logits_device.data(),
                                           settings_device.data(),
                                           bias_device.data(),
                                           seen_device.data(),
                                           step_device.data(),
                                           active_device.data(),
                                           token_device.data(),
                                           probability_device.data(),
                                           nullptr,
                                           {}});
    EXPECT_EQ(token_device.read(), token) << vocabulary;
    EXPECT_EQ(seen_device.read(), cpu_seen) << vocabulary;
    expect_close(probability_device.read(), probability, {1e-9, 1e-9}, "log-probability");
  }
}

}  // namespace
}  // namespace perceiver::testing
