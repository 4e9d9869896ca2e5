#include "port/tensor_map.h"

#include <gmock/gmock.h>

#include "port/vocabulary_map.h"

namespace perceiver {
namespace {

using testing::ElementsAre;

TEST(TensorMap, RowsAreChosenAndMissingOnesFilled) {
  const TensorMap map{"ours", "theirs", false, {kZeroRow, 1, kNeverRow, 0}, 2};
  EXPECT_THAT(their_shape(map, {4, 2}), ElementsAre(2, 2));
  EXPECT_THAT(gather(map, {4, 2}, {1, 2, 3, 4}), ElementsAre(0, 0, 3, 4, kNeverLogit, kNeverLogit, 1, 2));
}

TEST(TensorMap, TheWayBackWritesOnlyRowsOfTheirs) {
  const TensorMap map{"ours", "theirs", false, {kZeroRow, 2}, 3};
  std::vector<double> theirs(3, 9);
  scatter(map, {2}, {5, 6}, theirs);
  EXPECT_THAT(theirs, ElementsAre(9, 9, 6));
}

TEST(TensorMap, TransposedMatrices) {
  const TensorMap map{"ours", "theirs", true};
  EXPECT_THAT(their_shape(map, {2, 3}), ElementsAre(3, 2));
  EXPECT_THAT(gather(map, {2, 3}, {1, 2, 3, 4, 5, 6}), ElementsAre(1, 3, 5, 2, 4, 6));
}

TEST(VocabularyMap, BytesOfPerceiverIo) {
  const VocabularyMap map = perceiver_io_bytes();
  EXPECT_EQ(map.ours(), 262);
  EXPECT_THAT(std::vector<int64_t>(map.theirs.begin(), map.theirs.begin() + 4), ElementsAre(0, 2, 1, 6));
  EXPECT_EQ(map.theirs[3 + 'a'], 6 + 'a');
  EXPECT_THAT(std::vector<int64_t>(map.theirs.end() - 3, map.theirs.end()), ElementsAre(3, 4, 5));
  EXPECT_FALSE(map.lacks_ids());
}

TEST(VocabularyMap, PianoEventsHaveThePadAtTheirEnd) {
  const VocabularyMap map = piano_events();
  EXPECT_EQ(map.ours(), 391);
  EXPECT_EQ(map.size, 389);
  EXPECT_THAT(std::vector<int64_t>(map.theirs.begin(), map.theirs.begin() + 4), ElementsAre(388, -1, -1, 0));
  EXPECT_EQ(map.inverse()[388], 0);
}

}  // namespace
}  // namespace perceiver
