#include "data/sample_files.h"

#include <gmock/gmock.h>

#include "data/arrays/npy.h"
#include "data/batches/crops.h"
#include "data/shards/shard_build.h"
#include "data/shards/shard_dataset.h"
#include "data/shards/shard_file.h"
#include "data/shards/shard_inputs.h"
#include "data/text/text_dataset.h"
#include "eval/evaluator.h"
#include "io/atomic_file.h"
#include "model/model_file.h"
#include "tests/support/fake_dataset.h"
#include "tests/support/tiny_run.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(SamplePlan, FollowsTheMaskFromThePromptOn) {
  const auto codec = open_modality("codec", {{"levels", "2"}, {"codes", "4,5"}});
  Prompt prompt;
  prompt.beginning.ids = {3, 7, 4};
  const SamplePlan plan = plan_sample(*codec, prompt, 10, 15);
  EXPECT_THAT(plan.prompt, ElementsAre(2, 3, 7, 4));
  EXPECT_EQ(plan.tokens, 10);
  EXPECT_TRUE(plan.may_end);
  ASSERT_EQ(plan.biases.size(), 2u);
  for (int t = 0; t < 2; ++t)
    for (int32_t id = 0; id < 15; ++id)
      EXPECT_EQ(plan.biases[static_cast<size_t>(t)][static_cast<size_t>(id)] == 0,
                codec->format().mask.allows(3 + t, id))
          << t << " " << id;
}

TEST(SamplePlan, IdsThatTheDataLackAreForbidden) {
  const auto audio = open_modality("audio", {});
  EXPECT_TRUE(plan_sample(*audio, {}, 5, 259).biases.empty());
  const SamplePlan plan = plan_sample(*audio, {}, 5, 264);
  ASSERT_EQ(plan.biases.size(), 1u);
  for (size_t id = 0; id < 264; ++id) EXPECT_EQ(plan.biases[0][id] == 0, id < 259);
  EXPECT_THROW(plan_sample(*audio, {}, 5, 100), Error);
  EXPECT_THAT(message_of([&] { plan_sample(*audio, {}, 0, 259); }), HasSubstr("--tokens"));
}

TEST(SamplePlan, KnownLengthsAndPositionsAreUsed) {
  const auto modality =
      open_modality("tokens", {{"values", "9"}, {"position_values", "9"}, {"ends", "false"}});
  EXPECT_THAT(message_of([&] { plan_sample(*modality, {}, 5, 12); }), HasSubstr("give a file"));
  Prompt prompt;
  prompt.beginning.ids = {3};
  prompt.positions = {1, 4, 5, 6};
  prompt.length = 3;
  const SamplePlan plan = plan_sample(*modality, prompt, 0, 12);
  EXPECT_EQ(plan.tokens, 2);
  EXPECT_EQ(plan.positions, prompt.positions);
  EXPECT_FALSE(plan.may_end);
  EXPECT_EQ(plan_sample(*modality, prompt, 1, 12).tokens, 1);
  prompt.beginning.ids = {3, 3, 3};
  EXPECT_THAT(message_of([&] { plan_sample(*modality, prompt, 0, 12); }), HasSubstr("nothing is left"));
}

TEST(SampleFiles, AreWrittenByTheEndingOfTheirName) {
  const TempFolder folder;
  const auto audio = open_modality("audio", {{"sample_rate", "8000"}});
  EXPECT_THAT(message_of([&] { check_output(*audio, "x.mid"); }), HasSubstr(".wav, .flac"));
  EXPECT_EQ(write_samples(*audio, std::vector<TokenSequence>{{.ids = {131, 132}}}, folder.path("one.WAV")),
            (std::vector<std::string>{folder.path("one.WAV")}));
  EXPECT_EQ(write_samples(*audio, std::vector<TokenSequence>{{.ids = {131}}, {.ids = {140}}},
                          folder.path("two.flac")),
            (std::vector<std::string>{folder.path("two-1.flac"), folder.path("two-2.flac")}));
  const Prompt prompt = read_prompt(*audio, folder.path("two-2.flac"), {});
  EXPECT_EQ(prompt.beginning.ids, std::vector<int32_t>{140});
}

TEST(SampleFiles, ModelsOfTheCopyTaskHaveNone) {
  EXPECT_THAT(message_of([] { modality_of_model("copy", "bytes"); }), HasSubstr("no files"));
  EXPECT_EQ(modality_of_model("text", "bytes")->format().vocabulary, 259);
}

}  // namespace
}  // namespace perceiver
