#include "perceiver/model.h"

#include <gtest/gtest.h>

#include "perceiver/error.h"

namespace perceiver {
namespace {

using namespace testing;

TEST(PublicModel, RefusesWhatIsNoCheckpoint) {
  EXPECT_THROW(Model::load("/no/such/folder"), Error);
}

}  // namespace
}  // namespace perceiver
