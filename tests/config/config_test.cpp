#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "base/edit_distance.h"
#include "base/random.h"
#include "base/text.h"
#include "config/explain.h"
#include "config/load.h"
#include "config/save.h"
#include "config/schema.h"
#include "config/validate.h"
#include "io/atomic_file.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
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

std::string yaml_error(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return error_of([&] { parse_config(text, "c.yaml", overrides); });
}

std::string set_error(const std::string& override_text) {
  return yaml_error("", {override_text});
}

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

TEST(Config, EmptyFileGivesTheDefaults) {
  expect_equal(read_config("", "c.yaml"), Config());
  expect_equal(read_config("# nothing\nmodel:\n", "c.yaml"), Config());
}

TEST(Config, ReadsEveryKindOfValue) {
  const Config config = read_config(R"(
device: cpu
model:
  type: transformer
  latents: 64
  max_wavelength: 1e4
  query_residual: false
  extra_cross_attention_after: [0, 2]
data: {train: book.txt, validation: ["a b.txt", c.txt], seed: 18446744073709551615}
schedule:
  step_factors:
    - 0.5
    - +.25
)",
                                    "c.yaml");
  EXPECT_EQ(config.device, "cpu");
  EXPECT_EQ(config.model.type, ModelType::transformer);
  EXPECT_EQ(config.model.latents, 64);
  EXPECT_EQ(config.model.max_wavelength, 10000.0);
  EXPECT_FALSE(config.model.query_residual);
  EXPECT_EQ(config.model.extra_cross_attention_after, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(config.data.train, (std::vector<std::string>{"book.txt"}));
  EXPECT_EQ(config.data.validation, (std::vector<std::string>{"a b.txt", "c.txt"}));
  EXPECT_EQ(config.data.seed, UINT64_MAX);
  EXPECT_EQ(config.schedule.step_factors, (std::vector<double>{0.5, 0.25}));
}

TEST(Config, UnknownKeysNameLinePathAndNearestKey) {
  EXPECT_THAT(yaml_error("device: cpu\nmodel:\n  latens: 5\n"),
              AllOf(StartsWith("c.yaml:3: unknown key 'model.latens'"), HasSubstr("'model.latents'")));
  EXPECT_THAT(yaml_error("modell: {latents: 5}"),
              AllOf(StartsWith("c.yaml:1:"), HasSubstr("key is 'model'")));
  EXPECT_THAT(yaml_error("train: {learning_rate: 1}"), HasSubstr("'optimizer.learning_rate'"));
  EXPECT_THAT(yaml_error("model: {model: {latents: 5}}"), HasSubstr("unknown key 'model.model'"));
  EXPECT_THAT(yaml_error("'': 5"), HasSubstr("unknown key ''"));
  EXPECT_THAT(yaml_error("model.latents: 5"), HasSubstr("nested"));
}

TEST(Config, BadValuesSayWhatWasExpectedAndFound) {
  EXPECT_EQ(yaml_error("\nmodel:\n  latents: abc\n"),
            "c.yaml:3: model.latents must be an integer from 1 to 1073741824, not 'abc'");
  EXPECT_THAT(yaml_error("model: {latents: 0}"), HasSubstr("not '0'"));
  EXPECT_THAT(yaml_error("model: {latents: 1073741825}"), HasSubstr("not '1073741825'"));
  EXPECT_THAT(yaml_error("model: {latents: 99999999999999999999}"), HasSubstr("must be an integer"));
  EXPECT_THAT(yaml_error("model: {latents: 1.5}"), HasSubstr("must be an integer"));
  EXPECT_THAT(yaml_error("model: {latents: '5'}"), HasSubstr("not the string '5'"));
  EXPECT_THAT(yaml_error("model: {latents: }"), HasSubstr("not nothing"));
  EXPECT_THAT(yaml_error("model: {latents: [5]}"), HasSubstr("not a list"));
  EXPECT_THAT(yaml_error("model: {latents: {a: 5}}"), HasSubstr("not a mapping"));
  EXPECT_THAT(yaml_error("model: {query_residual: yes}"), HasSubstr("must be true or false, not 'yes'"));
  EXPECT_THAT(yaml_error("model: {activation: gelo}"), HasSubstr("did you mean 'gelu'?"));
  EXPECT_THAT(yaml_error("train: {seed: -1}"), HasSubstr("from 0 to 2^64 - 1"));
  EXPECT_THAT(yaml_error("model: {position_sizes: 5}"), HasSubstr("a list of integers"));
  EXPECT_THAT(yaml_error("model:\n  position_sizes:\n  - 5\n  - x\n"),
              StartsWith("c.yaml:4: model.position_sizes"));
  EXPECT_THAT(yaml_error("data: {train: ''}"), HasSubstr("not the string ''"));
  EXPECT_THAT(yaml_error("data: {train: \"a\\x00b\"}"), HasSubstr("'a\\x00b'"));
  EXPECT_THAT(yaml_error("model: 5"), HasSubstr("must be a mapping"));
  EXPECT_THAT(yaml_error("[]"), HasSubstr("the configuration must be a mapping"));
}

TEST(Config, NumbersMustBeFiniteAndInRange) {
  for (const char* bad :
       {".inf", "inf", "nan", ".nan", "1e999", "-1e-9", "-inf", "0x1p3", "1e", "1 2", "++1", "+-1"})
    EXPECT_THAT(yaml_error(std::string("loss: {z_loss: ") + bad + "}"),
                HasSubstr("loss.z_loss must be a number >= 0"))
        << bad;
  EXPECT_THAT(yaml_error("model: {residual_dropout: 1}"), HasSubstr("a number >= 0 and < 1"));
  EXPECT_THAT(yaml_error("model: {rotary_fraction: 0}"), HasSubstr("a number > 0 and <= 1"));
  EXPECT_EQ(read_config("model: {rotary_fraction: 1}", "").model.rotary_fraction, 1.0);
  EXPECT_EQ(read_config("model: {residual_dropout: 0}", "").model.residual_dropout, 0.0);
}

TEST(Config, DamagedYamlIsRefusedWithItsPlace) {
  EXPECT_THAT(yaml_error("model:\n  latents: 5\n bad\n"), StartsWith("c.yaml:3:2: YAML syntax error: "));
  EXPECT_THAT(yaml_error("data: {train: [a, b}"), StartsWith("c.yaml:1"));
  EXPECT_THAT(yaml_error("model:\n  latents: 5\n  latents: 6\n"),
              StartsWith("c.yaml:3: the key 'latents' appears twice"));
  EXPECT_THAT(yaml_error("model: {}\nmodel: {}\n"), StartsWith("c.yaml:2: the key 'model' appears twice"));
  EXPECT_THAT(yaml_error("model: &x {}\n"), HasSubstr("anchors"));
  EXPECT_THAT(yaml_error("model: !x {}\n"), HasSubstr("tag '!x'"));
  EXPECT_THAT(yaml_error("a: 1\n---\nb: 1\n"), HasSubstr("only one"));
  EXPECT_THAT(yaml_error("model: {}\n%x: 1\n"), StartsWith("c.yaml:2: a line cannot begin with '%'"));
  EXPECT_THAT(yaml_error("? [a]\n: 1\n"), HasSubstr("cannot be a key"));
  EXPECT_THAT(yaml_error(": 1\n"), HasSubstr("a key is missing"));
  EXPECT_THAT(yaml_error("model: {}\n\x04train: {}\n"), StartsWith("c.yaml:2: control character 0x04"));
  EXPECT_THAT(yaml_error(std::string("model: {}\0", 10)), HasSubstr("control character"));
  EXPECT_THAT(yaml_error("data: {train: \xff}"), HasSubstr("UTF-8"));
}

TEST(Config, SyntaxErrorsAreOnePrintableLine) {
  for (const std::string text :
       {"{\"a\\", "a: \"\\q\"", "a: \"\\\t\"", "a: \"\\x\n\"", "@", "a: `", "!<\t> b", "&\t b"})
    for (const char c : yaml_error(text)) EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20) << text;
}

TEST(Config, HugeTextsAreRefusedQuickly) {
  const auto repeat = [](const std::string& piece, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += piece;
    return text;
  };
  EXPECT_THAT(yaml_error(repeat(" ", (1 << 20) + 1)), HasSubstr("1048576"));
  EXPECT_NE(yaml_error(repeat("[", 500'000)), "no error");
  EXPECT_NE(yaml_error(repeat("{a: ", 200'000)), "no error");
  EXPECT_THAT(yaml_error(repeat("- ", 500'000)), HasSubstr("nested more than 8"));
  EXPECT_THAT(yaml_error(repeat("- a\n", 200'000)), HasSubstr("more than 100000 values"));
  EXPECT_THAT(error_of([&] { config_from_json(repeat("[", 500'000), "j"); }),
              HasSubstr("nested more than 8"));
}

TEST(Config, OverridesApplyInOrderWithTheSameChecks) {
  const Config config = parse_config("train: {steps: 5}", "c.yaml",
                                     {"train.steps=7", "train.steps=9", "data.train=[a, b]", "data.test=c=d",
                                      "model={latents: 8, layers: 2}", "device=cpu"});
  EXPECT_EQ(config.train.steps, 9);
  EXPECT_EQ(config.data.train, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.data.test, (std::vector<std::string>{"c=d"}));
  EXPECT_EQ(config.model.latents, 8);
  EXPECT_EQ(config.device, "cpu");
  EXPECT_EQ(set_error("train.steps=x"),
            "--set 'train.steps=x': train.steps must be an integer from 0 to 1000000000000, not 'x'");
  EXPECT_THAT(set_error("train.step=1"),
              HasSubstr("unknown key 'train.step'; the nearest known key is 'train.steps'"));
  EXPECT_THAT(set_error("train.steps"), HasSubstr("key=value"));
  EXPECT_THAT(set_error("=5"), HasSubstr("key=value"));
  EXPECT_THAT(set_error("train.steps="), HasSubstr("not nothing"));
  EXPECT_THAT(set_error("train=5"), HasSubstr("must be a mapping"));
  EXPECT_THAT(set_error("train={stepps: 5}"), HasSubstr("'train.steps'"));
  EXPECT_THAT(set_error("train.steps=[5"), HasSubstr("--set 'train.steps=[5'"));
}

TEST(Config, LoadNamesTheFile) {
  std::string name = (fs::temp_directory_path() / "perceiver-config-XXXXXX").string();
  const fs::path folder = ::mkdtemp(name.data());
  const fs::path path = folder / "x.yaml";
  write_file_atomically(path, "train: {steps: 5}\n");
  EXPECT_EQ(load_config(path, {"train.batch=4"}).train.batch, 4);
  EXPECT_THAT(error_of([&] { load_config(path, {"model.latents=4096"}); }),
              StartsWith(path.string() + ": model.latents (4096) must not exceed"));
  write_file_atomically(path, "train:\n  steps: x\n");
  EXPECT_THAT(error_of([&] { load_config(path); }), StartsWith(path.string() + ":2: train.steps"));
  EXPECT_THAT(error_of([&] { load_config(folder / "no.yaml"); }), HasSubstr("No such file"));
  fs::remove_all(folder);
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

TEST(Words, EditDistance) {
  EXPECT_EQ(edit_distance("kitten", "sitting", 100), 3u);
  EXPECT_EQ(edit_distance("", "abc", 100), 3u);
  EXPECT_EQ(edit_distance("abc", "abc", 100), 0u);
  EXPECT_EQ(edit_distance("kitten", "sitting", 2), 2u);
  EXPECT_EQ(nearest_word("sed", {"steps", "seed", "batch"}), 1u);
}

TEST(Words, Utf8) {
  for (const char* good : {"", "a", "é", "日本", "😀", "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                          "\xf4\x90\x80\x80", "\xff", "\xe6\x97", "\xc3(", "\xf5\x80\x80\x80"})
    EXPECT_FALSE(is_utf8(bad)) << bad;
}

TEST(Words, QuotesStayShortAndOnOneLine) {
  EXPECT_EQ(quote("a\nb\x1b"), "'a\\x0ab\\x1b'");
  EXPECT_EQ(quote(std::string(100, 'x')), "'" + std::string(60, 'x') + "...'");
  EXPECT_TRUE(is_utf8(quote(std::string(59, 'x') + "日本")));
}

}  // namespace
}  // namespace perceiver
