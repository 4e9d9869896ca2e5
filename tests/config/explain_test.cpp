#include "perceiver/config.h"

#include <gmock/gmock.h>

#include <sstream>

#include "config/schema.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

TEST(ConfigExplain, ShowsEveryKeyWithinTheColumns) {
  const std::string text = explain_config();
  for (const ConfigKey& key : config_keys())
    EXPECT_THAT(text, HasSubstr("\n  " + key.path + " ")) << key.path;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 100u) << line;
    EXPECT_FALSE(line.ends_with(' ')) << line;
  }
}

TEST(ConfigExplain, SelectsSectionsAndKeys) {
  EXPECT_THAT(explain_config("train"), AllOf(StartsWith("train: "), HasSubstr("train.steps"),
                                             testing::Not(HasSubstr("model.layers"))));
  EXPECT_THAT(explain_config("optimizer.type"),
              AllOf(HasSubstr("one of adam, adamw, sgd, lamb, adafactor, muon; default adam"),
                    testing::Not(HasSubstr("beta1"))));
  EXPECT_THAT(message_of([] { explain_config("optimiser"); }), HasSubstr("'optimizer'"));
}

}  // namespace
}  // namespace perceiver
