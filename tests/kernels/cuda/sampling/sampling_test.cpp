// CUDA kernels that sample tokens and write cache rows against the CPU's.
#include <gtest/gtest.h>

#include "kernels/sampling.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaSampling : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaSampling, ElementTypes);

TYPED_TEST(CudaSampling, WritesRowsToTheCaches) {
  using T = TypeParam;
  const Array<T> source(Values{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  const Array<T> rings(Values(3 * 4 * 2, 0));
  const DeviceArray<int32_t> row(Ints{3, 1, 0}), active(Ints{1, 0, 1});
  kernels::cuda::write_rows(this->launch(), {.type = kType<T>,
                                             .slots = 3,
                                             .copies = 2,
                                             .columns = 2,
                                             .source = source.data(),
                                             .source_stride = 2,
                                             .row = row.data(),
                                             .active = active.data(),
                                             .target = rings.data(),
                                             .capacity = 4});
  EXPECT_EQ(rings.read(),
            (Values{3, 4, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9, 10, 11, 12, 0, 0, 0, 0}));
}

TYPED_TEST(CudaSampling, WritesRowsOfBytes) {
  const DeviceArray<uint8_t> source({1, 2, 3, 4, 5, 6}), rings(std::vector<uint8_t>(2 * 2 * 3, 0));
  const DeviceArray<int32_t> row(Ints{1, 0});
  kernels::cuda::write_rows(this->launch(), {.type = DType::e4m3,
                                             .slots = 2,
                                             .copies = 1,
                                             .columns = 3,
                                             .source = source.data(),
                                             .source_stride = 3,
                                             .row = row.data(),
                                             .target = rings.data(),
                                             .capacity = 2});
  EXPECT_EQ(rings.read(), (std::vector<uint8_t>{0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0}));
}

TYPED_TEST(CudaSampling, FindsARanksPartOfRingBuffers) {
  const Ints active{1, 1, 0, 1, 1}, count{7, 7, 7, 1, 0}, row{6, 4, 3, 0, 0};
  const DeviceArray<int32_t> a(active), c(count), r(row);
  for (int32_t rank = 0; rank < 3; ++rank) {
    Ints own_active(5), own_count(5), own_row(5);
    kernels::ShareSlots k{.slots = 5,
                          .rank = rank,
                          .ranks = 3,
                          .active = active.data(),
                          .count = count.data(),
                          .row = row.data(),
                          .own_active = own_active.data(),
                          .own_count = own_count.data(),
                          .own_row = own_row.data()};
    kernels::cpu::share_slots(k);
    const DeviceArray<int32_t> own_a(5), own_c(5), own_r(5);
    k.active = a.data(), k.count = c.data(), k.row = r.data();
    k.own_active = own_a.data(), k.own_count = own_c.data(), k.own_row = own_r.data();
    kernels::cuda::share_slots(this->launch(), k);
    EXPECT_EQ(own_a.read(), own_active);
    EXPECT_EQ(own_c.read(), own_count);
    EXPECT_EQ(own_r.read(), own_row);
  }
}

TYPED_TEST(CudaSampling, AdvancesSlotsAfterSampling) {
  using T = TypeParam;
  const Array<T> logits(Values{0, 0, 0, 1, 9, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0});
  std::vector<kernels::SamplingParameters> likeliest(3);
  for (kernels::SamplingParameters& own : likeliest) own.temperature = 0;
  const DeviceArray<kernels::SamplingParameters> settings(likeliest);
  const DeviceArray<uint8_t> seen(std::vector<uint8_t>(15));
  const DeviceArray<double> probability(Values(3, 0));
  const DeviceArray<int32_t> active(Ints{1, 0, 1}), token(Ints(3, -5)), posted(Ints(3, -5)),
      step(Ints{4, 4, 0}), position(Ints{9, 9, 1}), context_count(Ints{5, 5, 1}), context_row(Ints{4, 4, 0}),
      latent_count(Ints{4, 4, 2}), latent_row(Ints{2, 2, 0}), query(Ints(6, -1));
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
  kernels::cuda::sample(this->launch(), {.type = kType<T>,
                                         .slots = 3,
                                         .vocabulary = 5,
                                         .logits = logits.data(),
                                         .parameters = settings.data(),
                                         .bias = nullptr,
                                         .seen = seen.data(),
                                         .step = step.data(),
                                         .active = active.data(),
                                         .token = token.data(),
                                         .log_probability = probability.data(),
                                         .posted = posted.data(),
                                         .next = next});
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

TYPED_TEST(CudaSampling, SamplesWhatTheCpuSamples) {
  using T = TypeParam;
  constexpr int64_t kSlots = 40;
  for (const int64_t vocabulary : {int64_t{259}, int64_t{768}, int64_t{32000}, int64_t{131072}}) {
    const Values logits = random_values<T>(kSlots * vocabulary, 5, 3);
    std::vector<kernels::SamplingParameters> settings(kSlots);
    std::vector<uint8_t> seen(static_cast<size_t>(kSlots * vocabulary));
    for (size_t i = 0; i < seen.size(); ++i) seen[i] = i % 3 == 0;
    std::vector<float> bias(static_cast<size_t>(2 * vocabulary), 0.0f);
    for (size_t i = 0; i < bias.size(); ++i)
      bias[i] = i % 5 == 0 ? -INFINITY : 0.25f * static_cast<float>(i % 7);
    Ints step, active;
    for (int64_t s = 0; s < kSlots; ++s) {
      kernels::SamplingParameters& own = settings[static_cast<size_t>(s)];
      own.temperature = s % 5 == 0 ? 0 : 0.3 * static_cast<double>(s % 5);
      own.top_k = s % 3 == 0 ? 0 : static_cast<int32_t>(1 + 20 * (s % 4));
      own.top_p = s % 4 == 0 ? 1 : 0.3 + 0.2 * static_cast<double>(s % 4);
      own.min_p = s % 7 == 0 ? 0.05 : 0;
      own.repetition_penalty = s % 2 == 0 ? 1 : 1.2;
      own.seed = 0x1234567890ull + static_cast<uint64_t>(s);
      own.sequence = static_cast<uint32_t>(s);
      own.bias_row = s % 6 == 0 ? 0 : -1;
      own.bias_period = 2;
      own.allow_eos = static_cast<int32_t>(s % 2);
      step.push_back(static_cast<int32_t>(s * 3));
      active.push_back(s == 17 ? 0 : 1);
    }
    Ints token(kSlots, -5);
    Values probability(kSlots, 0);
    std::vector<uint8_t> cpu_seen = seen;
    kernels::cpu::sample({.type = DType::f64,
                          .slots = kSlots,
                          .vocabulary = vocabulary,
                          .logits = logits.data(),
                          .parameters = settings.data(),
                          .bias = bias.data(),
                          .seen = cpu_seen.data(),
                          .step = step.data(),
                          .active = active.data(),
                          .token = token.data(),
                          .log_probability = probability.data(),
                          .posted = nullptr,
                          .next = {}});
    const Array<T> logits_device(logits);
    const DeviceArray<kernels::SamplingParameters> settings_device(settings);
    const DeviceArray<uint8_t> seen_device(seen);
    const DeviceArray<float> bias_device(bias);
    const DeviceArray<int32_t> step_device(step), active_device(active), token_device(Ints(kSlots, -5));
    const DeviceArray<double> probability_device(Values(kSlots, 0));
    kernels::cuda::sample(this->launch(), {.type = kType<T>,
                                           .slots = kSlots,
                                           .vocabulary = vocabulary,
                                           .logits = logits_device.data(),
                                           .parameters = settings_device.data(),
                                           .bias = bias_device.data(),
                                           .seen = seen_device.data(),
                                           .step = step_device.data(),
                                           .active = active_device.data(),
                                           .token = token_device.data(),
                                           .log_probability = probability_device.data(),
                                           .posted = nullptr,
                                           .next = {}});
    EXPECT_EQ(token_device.read(), token) << vocabulary;
    EXPECT_EQ(seen_device.read(), cpu_seen) << vocabulary;
    expect_close(probability_device.read(), probability, {1e-9, 1e-9}, "log-probability");
  }
}

}  // namespace
}  // namespace perceiver::testing
