#include "config/explain.h"

#include <gmock/gmock.h>

#include <sstream>

#include "base/random.h"
#include "config/schema.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

template <typename Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "no error";
}

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
              AllOf(HasSubstr("one of adam, adamw, sgd, lamb, adafactor; default adam"),
                    testing::Not(HasSubstr("beta1"))));
  EXPECT_THAT(error_of([] { explain_config("optimiser"); }), HasSubstr("'optimizer'"));
}

}  // namespace
}  // namespace perceiver
