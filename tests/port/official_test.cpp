#include "port/official.h"

#include <gmock/gmock.h>

#include "config/schema.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

TEST(ImportOfficial, ConfigurationIsReadWithinTheLimit) {
  try {
    official_config("{\"vocab_size\": " + std::string(200'000, '['), "theirs");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("theirs: nested more than"));
  }
}

}  // namespace
}  // namespace perceiver
