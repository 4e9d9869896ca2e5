#include "config/save.h"

#include <gtest/gtest.h>

#include <cmath>

#include "config/load.h"
#include "config/schema.h"
#include "io/atomic_file.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

void expect_equal(const Config& a, const Config& b) {
  for (const ConfigKey& key : config_keys()) EXPECT_EQ(key.get(a), key.get(b)) << key.path;
}

/// A Config whose every key has a random value that is allowed for itself.
class RandomConfig {
 public:
  explicit RandomConfig(uint64_t seed) : random_(seed, RandomPurpose::batch) {}

  Config make() {
    Config config;
    for (const ConfigKey& key : config_keys()) key.set(config, value(key));
    return config;
  }

 private:
  ConfigValue value(const ConfigKey& key) {
    switch (key.kind) {
      case ValueKind::boolean:
        return random_.below(2) == 1;
      case ValueKind::integer:
        return integer(key.range);
      case ValueKind::seed:
        return random_.next64();
      case ValueKind::real:
        return real(key.range);
      case ValueKind::choice:
        return key.choices[random_.below(key.choices.size())];
      case ValueKind::integers:
        return list<int64_t>([&] { return integer(key.range); });
      case ValueKind::reals:
        return list<double>([&] { return real(key.range); });
      case ValueKind::pairs:
        return std::map<std::string, std::string>{{"size", "64"}, {"path", "a b: \"c\""}};
      case ValueKind::texts:
        return list<std::string>([&] { return text(); });
      case ValueKind::text:
        return random_.below(4) == 0 ? std::string() : text();
      case ValueKind::duration:
        return random_.below(4) == 0 ? 0.0 : real({0, 1e9, false, false});
    }
    return false;
  }

  template <typename Element, typename Make>
  std::vector<Element> list(Make make) {
    std::vector<Element> values(random_.below(4));
    for (Element& each : values) each = make();
    return values;
  }

  int64_t integer(const ValueRange& range) {
    const auto min = static_cast<int64_t>(range.min);
    return min + static_cast<int64_t>(
                     random_.below(static_cast<uint64_t>(range.max) - static_cast<uint64_t>(min) + 1));
  }

  double real(const ValueRange& range) {
    const double x = 1 - random_.uniform();  // (0, 1]
    if (std::isfinite(range.max)) return range.max_excluded ? range.max * (1 - x) : range.max * x;
    return random_.below(2) ? x * 1e-300 : x * 1e300;
  }

  std::string text() {
    static const std::vector<std::string> pieces{
        "a",  "Z",  "0",    "1e5", " ",    "'",  "\"", "\\", ":", "#",      "- ",
        "\n", "\t", "\x01", "{",   "]",    ",",  "&x", "*",  "!", "%",      "null",
        "~",  "é",  "日",   "😀",   "\x7f", "\r", "@",  "`",  "|", "\u0085", "true"};
    std::string result;
    for (uint64_t i = 0; i <= random_.below(6); ++i) result += pieces[random_.below(pieces.size())];
    return result;
  }

  RandomStream random_;
};

TEST(Config, YamlRoundTripsExactly) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const Config config = RandomConfig(seed).make();
    const std::string yaml = to_yaml(config);
    const Config again = read_config(yaml, "again");
    expect_equal(config, again);
    EXPECT_EQ(to_yaml(again), yaml);
    if (HasFailure()) FAIL() << yaml;
  }
}

TEST(Config, RandomConfigsDifferInEveryKey) {
  // Or the round trip above would not show that a key is read and written at all.
  const Config defaults;
  for (const ConfigKey& key : config_keys()) {
    bool differs = false;
    for (uint64_t seed = 0; seed < 20 && !differs; ++seed)
      differs = key.get(RandomConfig(seed).make()) != key.get(defaults);
    EXPECT_TRUE(differs) << key.path;
  }
}

}  // namespace
}  // namespace perceiver
