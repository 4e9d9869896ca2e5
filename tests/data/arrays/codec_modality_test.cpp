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

std::unique_ptr<Modality> codec(const std::string& layout = "frames_levels") {
  return open_modality("codec",
                       {{"levels", "3"}, {"codes", "10,20,30"}, {"layout", layout}, {"frame_rate", "2"}});
}

TEST(CodecModality, EveryLevelHasIdsOfItsOwn) {
  const auto modality = codec();
  EXPECT_EQ(modality->format().vocabulary, 63);
  const TokenSequence s = encode(*modality, write_npy(std::vector<int32_t>{0, 0, 0, 9, 19, 29}, {2, 3}));
  EXPECT_EQ(s.ids, (std::vector<int32_t>{3, 13, 33, 12, 32, 62}));
  EXPECT_EQ(s.units, 6);
}

TEST(CodecModality, LayoutsAreTransposes) {
  const auto frames = codec(), levels = codec("levels_frames");
  const std::string a = write_npy(std::vector<int32_t>{1, 2, 3, 4, 5, 6}, {2, 3});
  const std::string b = write_npy(std::vector<int32_t>{1, 4, 2, 5, 3, 6}, {3, 2});
  EXPECT_EQ(encode(*frames, a).ids, encode(*levels, b).ids);
  EXPECT_EQ(frames->decode(encode(*frames, a), ".npy"), a);
  EXPECT_EQ(levels->decode(encode(*levels, b), ".npy"), b);
  EXPECT_THAT(frames->compare({"x", bytes(a)}), HasSubstr("2 frames of 3 levels; decoded: the same codes"));
}

TEST(CodecModality, TheMaskAllowsEachLevelItsCodesAndAnEndBetweenFrames) {
  const SamplingMask mask = codec()->format().mask;
  ASSERT_EQ(mask.cycle.size(), 3u);
  for (int64_t k = 0; k < 7; ++k) {
    const int first[] = {3, 13, 33}, last[] = {13, 33, 63};
    for (int32_t id = 0; id < 63; ++id) {
      const bool wanted = (id >= first[k % 3] && id < last[k % 3]) || (id == 1 && k % 3 == 0);
      EXPECT_EQ(mask.allows(k, id), wanted) << k << " " << id;
    }
  }
}

TEST(CodecModality, BadArraysAreRefused) {
  const auto modality = codec();
  const auto error = [&](const std::vector<int32_t>& values, const std::vector<int64_t>& shape) {
    return message_of([&] { encode(*modality, write_npy(values, shape)); });
  };
  EXPECT_THAT(error({1, 2, 3}, {3}), HasSubstr("shape [3]"));
  EXPECT_THAT(error({1, 2, 3, 4}, {2, 2}), HasSubstr("the second of 3 levels"));
  EXPECT_THAT(error({1, 2, 3, 10, 0, 0}, {2, 3}), HasSubstr("code 10 of level 0"));
  EXPECT_THAT(error({-1, 2, 3}, {1, 3}), HasSubstr("code -1"));
  EXPECT_THAT(message_of([] {
                open_modality("codec", {{"levels", "3"}, {"codes", "10,20"}});
              }),
              HasSubstr("2 numbers for 3 levels"));
}

TEST(CodecModality, DecodesWhatAModelMayWrite) {
  const auto modality = codec();
  // SOS, a code of the wrong level, EOS, and a frame that is not whole.
  const TokenSequence s{{2, 3, 3, 14, 35, 1, 12}, {}, 0, 0};
  EXPECT_EQ(modality->decode(s, ".npy"), write_npy(std::vector<int32_t>{0, 1, 2}, {1, 3}));
  EXPECT_THROW(modality->decode({{63}, {}, 0, 0}, ".npy"), Error);
  EXPECT_THROW(modality->decode({{3}, {}, 0, 0}, ".wav"), Error);
}

TEST(CodecModality, PromptsAreWholeFrames) {
  const auto modality = codec();
  const std::string file = write_npy(std::vector<int32_t>(30, 1), {10, 3});
  PromptPart options;
  options.seconds = 2;
  EXPECT_EQ(modality->prompt({"x", bytes(file)}, options).beginning.ids.size(), 12u);
  options = {};
  options.tokens = 8;
  EXPECT_EQ(modality->prompt({"x", bytes(file)}, options).beginning.ids.size(), 6u);
  options.tokens = 2;
  EXPECT_THROW(modality->prompt({"x", bytes(file)}, options), Error);
}

}  // namespace
}  // namespace perceiver
