#include "data/audio/mu_law.h"

#include <gtest/gtest.h>

#include <cmath>

#include "data/audio/audio_file.h"
#include "data/modality.h"
#include "perceiver/special_tokens.h"
#include "tests/support/user_error.h"
#include "tests/support/wav_bytes.h"

namespace perceiver {
namespace {

TEST(MuLaw, EveryLevelComesBack) {
  for (int32_t level = 0; level < 256; ++level) EXPECT_EQ(mu_law_encode(mu_law_decode(level)), level);
  EXPECT_EQ(mu_law_encode(-1), 0);
  EXPECT_EQ(mu_law_encode(1), 255);
  EXPECT_EQ(mu_law_encode(0), 128);
  EXPECT_EQ(mu_law_encode(7), 255);
  EXPECT_FLOAT_EQ(mu_law_decode(255), 1);
  EXPECT_FLOAT_EQ(mu_law_decode(0), -1);
}

// Between levels 127 and 128 lies silence; a step in x is ln(256) (1 + 255 |x|) / 255 times one in the level.
TEST(MuLaw, ErrorsAreSmallWhereTheSoundIs) {
  for (int i = -1000; i <= 1000; ++i) {
    const float x = static_cast<float>(i) / 1000;
    const double step = std::log(256.0) * (1 + 255 * std::abs(x)) / 255 * 2 / 255;
    EXPECT_NEAR(mu_law_decode(mu_law_encode(x)), x, 0.52 * step) << x;
  }
}

}  // namespace
}  // namespace perceiver
