#include "perceiver/experimental/random.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <vector>

#include "perceiver/error.h"

namespace perceiver {
namespace {

// The three vectors for "philox4x32 10" in tests/kat_vectors of Random123 (D. E. Shaw Research).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, 0, 0), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, LaysOutItsCounterAsDocumented) {
  const RandomStream stream(0x1122334455667788, RandomPurpose::batch, 0x00abcdef01234567, 0x89abcdef);
  EXPECT_EQ(stream.block(5), philox({5, 0x01234567, 0x06abcdef, 0x89abcdef}, 0x55667788, 0x11223344));
}

TEST(RandomStream, WordsAreTheBlocksInOrder) {
  RandomStream stream(7, RandomPurpose::split, 3, 4);
  for (uint32_t block = 0; block < 5; ++block) {
    for (const uint32_t word : stream.block(block)) EXPECT_EQ(stream.next(), word);
  }
}

TEST(RandomStream, SixtyFourBitsAreTheFirstWordThenTheSecond) {
  RandomStream words(7, RandomPurpose::split), pairs(7, RandomPurpose::split);
  const uint64_t first = words.next(), second = words.next();
  EXPECT_EQ(pairs.next64(), first << 32 | second);
}

// Streams that differ in any of seed, purpose, a and b have no block in common, even at the limits of each
// field.
TEST(RandomStream, StreamsDoNotOverlap) {
  std::set<PhiloxBlock> seen;
  int64_t blocks = 0;
  const uint64_t edges[] = {0, 1, 0xFFFFFFFF, uint64_t{1} << 32, uint64_t{1} << 55, (uint64_t{1} << 56) - 1};
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
    for (uint32_t purpose = 1; purpose <= 9; ++purpose) {
      for (const uint64_t a : edges) {
        for (const uint32_t b : {0u, 1u, 0xFFFFFFFFu}) {
          const RandomStream stream(seed, static_cast<RandomPurpose>(purpose), a, b);
          for (const uint32_t block : {0u, 1u, 0xFFFFFFFFu}) seen.insert(stream.block(block)), ++blocks;
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), blocks);
}

TEST(RandomStream, RefusesWhatWouldOverlap) {
  EXPECT_NO_THROW(RandomStream(0, RandomPurpose::batch, (uint64_t{1} << 56) - 1));
  EXPECT_THROW(RandomStream(0, RandomPurpose::batch, uint64_t{1} << 56), Error);
}

TEST(RandomStream, BelowIsInRangeAndUniform) {
  RandomStream stream(1, RandomPurpose::sampling);
  std::array<int, 7> counts{};
  constexpr int draws = 70000;
  for (int i = 0; i < draws; ++i) ++counts.at(stream.below(7));
  double chi_squared = 0;
  for (const int count : counts) chi_squared += (count - 10000.0) * (count - 10000.0) / 10000.0;
  EXPECT_LT(chi_squared, 22.5);  // 6 degrees of freedom: exceeded once in a thousand seeds
  EXPECT_EQ(stream.below(1), 0u);
  EXPECT_THROW(stream.below(0), Error);
  // Just above 2^63 nearly half of all words are rejected; the rest must still fill the range.
  const uint64_t odd = (uint64_t{1} << 63) + 1;
  bool high = false;
  for (int i = 0; i < 100; ++i) {
    const uint64_t x = stream.below(odd);
    ASSERT_LT(x, odd);
    high = high || x > odd / 2;
  }
  EXPECT_TRUE(high);
}

TEST(RandomStream, UniformIsInTheUnitInterval) {
  RandomStream stream(2, RandomPurpose::sampling);
  double sum = 0;
  for (int i = 0; i < 10000; ++i) {
    const double x = stream.uniform();
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    sum += x;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.015);  // five standard deviations
}

}  // namespace
}  // namespace perceiver
