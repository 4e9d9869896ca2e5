#include "data/dataset.h"

#include <gmock/gmock.h>

#include "data/text/byte_tokenizer.h"
#include "data/text/text_dataset.h"
#include "perceiver/error.h"
#include "tests/support/data_paths.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

TEST(OpenDataset, OpensEveryKind) {
  const TempFolder folder;
  DataConfig config = paths({folder.write("a.txt", "text")});
  EXPECT_EQ(open_dataset(config)->documents(Split::train), 1);
  config.type = "copy";
  EXPECT_TRUE(open_dataset(config)->unbounded());
}

TEST(CheckFits, ComparesDataAndModel) {
  const TempFolder folder;
  const auto data = TextDataset::open(paths({folder.write("a.txt", "text")}));
  ModelConfig model;
  EXPECT_NO_THROW(check_fits(*data, model));
  model.vocabulary = 258;
  EXPECT_THAT(message_of([&] { check_fits(*data, model); }), HasSubstr("model.vocabulary"));
  model.vocabulary = 300;
  model.position_sizes = {10, 10, 5};
  EXPECT_THAT(message_of([&] { check_fits(*data, model); }), HasSubstr("model.position_sizes"));
}

TEST(PredictedPositions, CountsPositionsNotLatents) {
  ModelConfig model;
  model.latents = 64;
  EXPECT_EQ(predicted_positions(model), 64);
  model.latents_per_position = 4;
  EXPECT_EQ(predicted_positions(model), 16);
  model.type = ModelType::transformer;
  EXPECT_EQ(predicted_positions(model), model.context_length);
}

}  // namespace
}  // namespace perceiver
