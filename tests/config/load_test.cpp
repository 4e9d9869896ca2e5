// Configurations from YAML and overrides, and what is said of mistakes in them.
#include "config/load.h"

#include <gmock/gmock.h>

#include "config/save.h"
#include "config/schema.h"
#include "io/atomic_file.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

std::string yaml_error(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return message_of([&] { parse_config(text, "c.yaml", overrides); });
}

std::string set_error(const std::string& override_text) {
  return yaml_error("", {override_text});
}

void expect_equal(const Config& a, const Config& b) {
  for (const ConfigKey& key : config_keys()) EXPECT_EQ(key.get(a), key.get(b)) << key.path;
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

TEST(Config, ATextMayBeEmpty) {
  for (const char* empty : {"train: {initialize: ''}", "train: {initialize: }", "train: {seed: 1}"})
    EXPECT_EQ(parse_config(empty, "c.yaml").train.initialize, "") << empty;
  EXPECT_EQ(parse_config("train: {initialize: runs/a b}", "c.yaml").train.initialize, "runs/a b");
  EXPECT_EQ(parse_config("train: {initialize: x}", "c.yaml", {"train.initialize="}).train.initialize, "");
  EXPECT_EQ(parse_config("train: {sample_prompt: 12}", "c.yaml").train.sample_prompt, "12");
  EXPECT_THAT(yaml_error("train: {initialize: [a]}"), HasSubstr("must be a string, not a list"));
  EXPECT_THAT(yaml_error("train: {initialize: \"a\\x00b\"}"), HasSubstr("'a\\x00b'"));
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

TEST(Config, AWordMayStandForZero) {
  for (const char* text : {"model: {vocabulary: auto}", "model: {vocabulary: 0}"})
    EXPECT_EQ(parse_config(text, "test", {}).model.vocabulary, 0) << text;
  EXPECT_THAT(to_yaml(parse_config("model: {vocabulary: auto}", "test", {})),
              HasSubstr("vocabulary: auto\n"));
  for (const char* text : {"model: {vocabulary: Auto}", "model: {vocabulary: 3}", "model: {latents: auto}"})
    EXPECT_THROW(parse_config(text, "test", {}), Error) << text;
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
  EXPECT_NE(yaml_error(repeat("[", 500'000)), "");
  EXPECT_NE(yaml_error(repeat("{a: ", 200'000)), "");
  EXPECT_THAT(yaml_error(repeat("- ", 500'000)), HasSubstr("nested more than 8"));
  EXPECT_THAT(yaml_error(repeat("- a\n", 200'000)), HasSubstr("more than 100000 values"));
  EXPECT_THAT(message_of([&] { config_from_json(repeat("[", 500'000), "j"); }),
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
  EXPECT_THAT(set_error("data.type="), HasSubstr("not nothing"));
  EXPECT_THAT(set_error("train=5"), HasSubstr("must be a mapping"));
  EXPECT_THAT(set_error("train={stepps: 5}"), HasSubstr("'train.steps'"));
  EXPECT_THAT(set_error("train.steps=[5"), HasSubstr("--set 'train.steps=[5'"));
}

TEST(Config, AnEmptyValueUnsetsAListOrMapping) {
  const std::string text =
      "model: {position_sizes: [34]}\nschedule: {step_factors: [0.5]}\n"
      "data: {options: {size: 32}, validation: v, test: [a, b]}";
  const Config config = read_config(
      text, "c.yaml",
      {"data.validation=", "data.test=", "data.options=", "model.position_sizes=", "schedule.step_factors="});
  EXPECT_TRUE(config.data.validation.empty());
  EXPECT_TRUE(config.data.test.empty());
  EXPECT_TRUE(config.data.options.empty());
  EXPECT_TRUE(config.model.position_sizes.empty());
  EXPECT_TRUE(config.schedule.step_factors.empty());
  EXPECT_TRUE(read_config("data:\n  validation:\n", "c.yaml", {}).data.validation.empty());
}

TEST(Config, LoadNamesTheFile) {
  std::string name = (fs::temp_directory_path() / "perceiver-config-XXXXXX").string();
  const fs::path folder = ::mkdtemp(name.data());
  const fs::path path = folder / "x.yaml";
  write_file_atomically(path, "train: {steps: 5}\n");
  EXPECT_EQ(load_config(path, {"train.batch=4"}).train.batch, 4);
  EXPECT_THAT(message_of([&] { load_config(path, {"model.latents=4096"}); }),
              StartsWith(path.string() + ": model.latents (4096) must not exceed"));
  write_file_atomically(path, "train:\n  steps: x\n");
  EXPECT_THAT(message_of([&] { load_config(path); }), StartsWith(path.string() + ":2: train.steps"));
  EXPECT_THAT(message_of([&] { load_config(folder / "no.yaml"); }), HasSubstr("No such file"));
  fs::remove_all(folder);
}

/// Of a configuration made in code.
template <typename Change>
std::string complaint_about(Change&& change) {
  Config config;
  change(config);
  return message_of([&] { check_values(config); });
}

TEST(ConfigInCode, EveryValueThatAFileCanHoldIsAllowed) {
  Config config;
  EXPECT_NO_THROW(check_values(config));
  config.model.vocabulary = 0;
  config.data.train = {"a b.txt", "\"quoted\"", "b\\c", "\xc3\xa4.txt", "null"};
  config.data.options = {{"size", "32"}};
  config.model.position_sizes = {34, 34, 5};
  config.schedule.step_factors = {0.1, 1e-30};
  config.train.seed = UINT64_MAX;
  EXPECT_NO_THROW(check_values(config));
  EXPECT_NO_THROW(check_values(parse_config(to_yaml(Config()))));
}

TEST(ConfigInCode, ComplaintsNameTheKeyAndWhatItMayBe) {
  EXPECT_EQ(complaint_about([](Config& c) { c.train.batch = 0; }),
            message_of([] { parse_config("train: {batch: 0}", "configuration"); }).replace(13, 2, ""));
  EXPECT_THAT(complaint_about([](Config& c) { c.model.vocabulary = 3; }),
              StartsWith("configuration: model.vocabulary must be auto, or an integer from 4"));
  EXPECT_THAT(complaint_about([](Config& c) { c.optimizer.learning_rate = NAN; }),
              StartsWith("configuration: optimizer.learning_rate must be a number"));
  EXPECT_THAT(complaint_about([](Config& c) { c.device = "tpu"; }),
              StartsWith("configuration: device must be one of auto, cpu, cuda, not 'tpu'"));
  EXPECT_THAT(complaint_about([](Config& c) { c.optimizer.type = static_cast<OptimizerType>(-1); }),
              StartsWith("configuration: optimizer.type must be one of adam"));
  EXPECT_THAT(complaint_about([](Config& c) { c.data.train = {""}; }),
              StartsWith("configuration: data.train must be"));
  EXPECT_THAT(complaint_about([](Config& c) {
                c.model.position_sizes = {34, -1};
              }),
              StartsWith("configuration: model.position_sizes must be"));
}

}  // namespace
}  // namespace perceiver
