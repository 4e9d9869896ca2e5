#include "config/schema.h"

#include <gmock/gmock.h>

#include "config/load.h"
#include "config/save.h"
#include "io/atomic_file.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

void expect_equal(const Config& a, const Config& b) {
  for (const ConfigKey& key : config_keys()) EXPECT_EQ(key.get(a), key.get(b)) << key.path;
}

struct AnyValue {
  template <typename Type>
  operator Type() const;
};

/// How many members an aggregate has.
template <typename Struct, typename... Values>
constexpr size_t member_count() {
  if constexpr (requires { Struct{Values{}..., AnyValue{}}; }) {
    return member_count<Struct, Values..., AnyValue>();
  } else {
    return sizeof...(Values);
  }
}

TEST(ConfigSchema, EveryMemberHasAKey) {
  const auto keys = [](std::string_view section) {
    size_t count = 0;
    for (const ConfigKey& key : config_keys()) count += key.section() == section;
    return count;
  };
  EXPECT_EQ(keys("model"), member_count<ModelConfig>());
  EXPECT_EQ(keys("data"), member_count<DataConfig>());
  EXPECT_EQ(keys("loss"), member_count<LossConfig>());
  EXPECT_EQ(keys("optimizer"), member_count<OptimizerConfig>());
  EXPECT_EQ(keys("schedule"), member_count<ScheduleConfig>());
  EXPECT_EQ(keys("train"), member_count<TrainConfig>());
  EXPECT_EQ(keys("eval"), member_count<EvalConfig>());
  EXPECT_EQ(keys("checkpoint"), member_count<CheckpointConfig>());
  EXPECT_EQ(keys("") + config_sections().size() - 1, member_count<Config>());
}

TEST(ConfigSchema, KeysAreDistinctDocumentedAndInASection) {
  std::set<std::string> paths;
  for (const ConfigKey& key : config_keys()) {
    EXPECT_TRUE(paths.insert(key.path).second) << key.path;
    EXPECT_TRUE(is_config_section(key.section())) << key.path;
    EXPECT_EQ(find_config_key(key.path), &key);
    EXPECT_GT(key.doc.size(), 15u) << key.path;
    EXPECT_THAT(key.doc, testing::EndsWith(".")) << key.path;
  }
}

TEST(ConfigSchema, DefaultsAreInTheirRanges) {
  expect_equal(read_config(to_yaml(Config()), "defaults"), Config());
}

}  // namespace
}  // namespace perceiver
