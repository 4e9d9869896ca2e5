#include <gmock/gmock.h>

#include "data/arrays/npy.h"
#include "data/modality.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TokenSequence encode(const Modality& modality, const std::string& file, const std::string& path = "x.npy") {
  return modality.encode({path, bytes(file)}).at(0);
}

TEST(TokensModality, ValuesAreIdsFromThreeOn) {
  const auto modality = open_modality("tokens", {{"values", "100"}, {"ends", "false"}});
  const TokenSequence s = encode(*modality, write_npy(std::vector<int32_t>{0, 99}, {2}));
  EXPECT_EQ(s.ids, (std::vector<int32_t>{3, 102}));
  EXPECT_EQ(modality->format().vocabulary, 103);
  EXPECT_FALSE(modality->format().ends);
  EXPECT_EQ(modality->decode(s, ".npy"), write_npy(std::vector<int32_t>{0, 99}, {2}));
  const auto error = [&](const std::vector<int32_t>& values, const std::vector<int64_t>& shape) {
    return message_of([&] { encode(*modality, write_npy(values, shape)); });
  };
  EXPECT_THAT(error({100}, {1}), HasSubstr("byte 128: value 100 is outside 0 to 99"));
  EXPECT_THAT(error({-1}, {1}), HasSubstr("value -1"));
  EXPECT_THAT(error({1, 2}, {1, 2}), HasSubstr("2 dimensions"));
}

TEST(TokensModality, PositionsComeFromTheFileBeside) {
  const TempFolder folder;
  const auto modality = open_modality("tokens", {{"values", "10"}, {"position_values", "4,5"}});
  EXPECT_EQ(modality->format().axes, 2);
  EXPECT_EQ(modality->format().position_sizes, (std::vector<int64_t>{6, 7}));
  const std::string file = write_npy(std::vector<int32_t>{7, 8}, {2});
  const std::string path = folder.path("x.npy");
  const auto error = [&] { return message_of([&] { encode(*modality, file, path); }); };
  EXPECT_THAT(error(), HasSubstr("x.positions.npy"));
  folder.write("x.positions.npy", write_npy(std::vector<int32_t>{0, 1, 3, 4}, {2, 2}));
  EXPECT_EQ(encode(*modality, file, path).positions, (std::vector<int32_t>{2, 3, 5, 6}));
  folder.write("x.positions.npy", write_npy(std::vector<int32_t>{0, 1, 4, 4}, {2, 2}));
  EXPECT_THAT(error(), HasSubstr("position 4 on axis 0 is outside 0 to 3"));
  folder.write("x.positions.npy", write_npy(std::vector<int32_t>{0, 1, 3}, {3}));
  EXPECT_THAT(error(), HasSubstr("have shape [2, 2]"));
  EXPECT_FALSE(find_modality("tokens").takes("x.positions.npy"));
}

TEST(TokensModality, APromptKeepsThePositionsOfWhatFollows) {
  const TempFolder folder;
  const auto modality = open_modality("tokens", {{"values", "10"}, {"position_values", "9"}});
  folder.write("x.positions.npy", write_npy(std::vector<int32_t>{4, 5, 6}, {3}));
  const std::string file = write_npy(std::vector<int32_t>{1, 2, 3}, {3});
  PromptPart options;
  options.tokens = 1;
  const Prompt prompt = modality->prompt({folder.path("x.npy"), bytes(file)}, options);
  EXPECT_EQ(prompt.beginning.ids, (std::vector<int32_t>{4}));
  EXPECT_EQ(prompt.positions, (std::vector<int32_t>{1, 6, 7, 8}));
  EXPECT_EQ(prompt.length, 3);
}

}  // namespace
}  // namespace perceiver
