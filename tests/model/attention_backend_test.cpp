// model.attention: what is refused before training starts, and batch by batch. The kernels themselves:
// attention_backend_gpu_test.cpp.
#include "model/attention_backend.h"

#include <gmock/gmock.h>

#include "config/load.h"
#include "tests/support/small_model.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(AttentionBackend, IsStoredAndOlderModelsTakeAuto) {
  const ModelConfig older = model_from_json("{}", "model");
  EXPECT_EQ(older.attention, AttentionBackend::automatic);
  EXPECT_EQ(model_from_json(R"({"attention": "portable"})", "model").attention, AttentionBackend::portable);
}

TEST(AttentionBackend, TheCpuHasOneImplementation) {
  ModelConfig config = testing::small_model();
  for (const auto backend : {AttentionBackend::automatic, AttentionBackend::reference}) {
    config.attention = backend;
    EXPECT_NO_THROW(check_attention_backend(config, testing::cpu(), DType::f32));
  }
  for (const auto backend : {AttentionBackend::hopper, AttentionBackend::portable, AttentionBackend::cudnn}) {
    config.attention = backend;
    EXPECT_THAT(
        error_of(ErrorKind::user, [&] { check_attention_backend(config, testing::cpu(), DType::f32); }),
        AllOf(HasSubstr("model.attention: "), HasSubstr("the CPU has one implementation"),
              HasSubstr("use model.attention: auto")));
  }
}

TEST(AttentionBackend, TrainingDoesNotStartWithoutIt) {
  Config config = tiny_config();
  config.model.attention = AttentionBackend::cudnn;
  const TempFolder folder;
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(config, folder.path()); }),
              HasSubstr("model.attention: cudnn cannot compute the self-attention"));
}

TEST(AttentionBackend, FullRowsHavePlainCausalMasks) {
  const ModelConfig config = testing::small_model();
  const PerceiverAR model(config, DeviceContext::cpu(2), DType::f32);
  const PassOptions training{0, true, {}};
  const ModelInputs full = model.prepare(testing::random_batch(config, 3, 1, false), training);
  EXPECT_TRUE(full.cross.plain_causal && full.self.plain_causal);
  const ModelInputs ragged = model.prepare(testing::random_batch(config, 3, 1, true), training);
  EXPECT_FALSE(ragged.cross.plain_causal || ragged.self.plain_causal);
}

TEST(AttentionBackend, HiddenKeysAreNoPlainCausalMask) {
  ModelConfig config = testing::small_model();
  config.context_dropout = 0.5;
  const Batch batch = testing::random_batch(config, 3, 1, false);
  const PerceiverAR dropping(config, DeviceContext::cpu(2), DType::f32);
  EXPECT_FALSE(dropping.prepare(batch, {0, true, {}}).cross.plain_causal);
  EXPECT_TRUE(dropping.prepare(batch, {0, true, {}}).self.plain_causal);
  EXPECT_TRUE(dropping.prepare(batch, {0, false, {}}).cross.plain_causal);
  config.context_dropout = 0;
  config.train_input_positions = 6;
  const PerceiverAR choosing(config, DeviceContext::cpu(2), DType::f32);
  EXPECT_FALSE(choosing.prepare(batch, {0, true, {}}).cross.plain_causal);
}

TEST(AttentionBackend, CudnnRefusesARaggedBatchInTraining) {
  ModelConfig config = testing::small_model();
  config.attention = AttentionBackend::cudnn;
  const PerceiverAR model(config, DeviceContext::cpu(2), DType::f32);
  Batch batch = testing::random_batch(config, 3, 1, false);
  EXPECT_NO_THROW(model.prepare(batch, {0, true, {}}));
  batch.lengths[1] = 11;
  batch.tokens[1 * batch.length + 11] = 0;
  EXPECT_THAT(error_of(ErrorKind::user,
                       [&] {
                         model.prepare(batch, {0, true, {}});
                       }),
              AllOf(HasSubstr("example 1 of the batch has 11 tokens in a row of 12"),
                    HasSubstr("use model.attention: auto")));
  EXPECT_NO_THROW(model.prepare(batch, {0, false, {}}));
}

TEST(AttentionBackend, CudnnRefusesRowsShorterThanTheLatents) {
  ModelConfig config = testing::small_model();
  config.attention = AttentionBackend::cudnn;
  const PerceiverAR model(config, DeviceContext::cpu(2), DType::f32);
  config.context_length = 3;
  const Batch batch = testing::random_batch(config, 2, 1, false);
  EXPECT_THAT(error_of(ErrorKind::user,
                       [&] {
                         model.prepare(batch, {0, true, {}});
                       }),
              HasSubstr("rows of 3 tokens leave some of the 4 latents without one"));
}

}  // namespace
}  // namespace perceiver
