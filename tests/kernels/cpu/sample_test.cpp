#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"
#include "perceiver/experimental/device_context.h"
#include "tests/support/cpu_kernels.h"

namespace perceiver {
namespace {

TEST(Sample, SlotsAdvanceAfterSampling) {
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
