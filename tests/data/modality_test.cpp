#include "data/modality.h"

#include <gmock/gmock.h>

#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

ModalityKind kind_with(std::vector<ModalityOption> options) {
  ModalityKind kind;
  kind.name = "test";
  kind.endings = {".abc"};
  kind.companions = {".more.abc"};
  kind.options = std::move(options);
  return kind;
}

TEST(ModalityKind, TakesItsEndings) {
  const ModalityKind kind = kind_with({});
  EXPECT_TRUE(kind.takes("a.abc"));
  EXPECT_TRUE(kind.takes("folder/A.ABC"));
  EXPECT_FALSE(kind.takes("a.abcd"));
  EXPECT_FALSE(kind.takes("abc"));
  EXPECT_FALSE(kind.takes("a.more.abc"));
  EXPECT_TRUE(find_modality("text").takes("anything at all"));
}

TEST(ModalityOptions, DefaultsAndGivenValues) {
  const ModalityKind kind = kind_with({{"size", "64", ""},
                                       {"rate", "0.5", ""},
                                       {"on", "true", ""},
                                       {"order", "b", ""},
                                       {"list", "", ""},
                                       {"shift", "2", "", ModalityOption::Use::training}});
  const ModalityOptions options(kind, {{"size", "32"}, {"list", "1,2,3"}});
  EXPECT_EQ(options.integer("size", 1, 100), 32);
  EXPECT_EQ(options.real("rate", 0, 1), 0.5);
  EXPECT_TRUE(options.flag("on"));
  EXPECT_EQ(options.word("order", {"a", "b"}), 1u);
  EXPECT_THAT(options.integers("list", 3, 1, 3), ElementsAre(1, 2, 3));
  EXPECT_EQ(options.values(ModalityOption::Use::training).size(), 1u);
  EXPECT_EQ(options.values(ModalityOption::Use::tokens).at("size"), "32");
}

TEST(ModalityOptions, MistakesAreNamed) {
  const ModalityKind kind = kind_with({{"size", "64", ""}, {"list", "", ""}});
  const auto options = [&](std::map<std::string, std::string> given) { return ModalityOptions(kind, given); };
  EXPECT_THAT(message_of([&] {
                options({{"sise", "1"}});
              }),
              AllOf(HasSubstr("data.options.sise"), HasSubstr("did you mean 'size'")));
  EXPECT_THAT(message_of([&] { ModalityOptions(kind_with({}), {{"x", "1"}}); }), HasSubstr("no options"));
  for (const char* bad : {"", "x", "1.5", "0", "101", "7 "})
    EXPECT_THAT(message_of([&] {
                  options({{"size", bad}}).integer("size", 1, 100);
                }),
                HasSubstr("data.options.size"));
  EXPECT_THAT(message_of([&] { options({{"size", "nan"}}).real("size", 0, 1); }), HasSubstr("not a number"));
  EXPECT_THAT(message_of([&] { options({{"size", "yes"}}).flag("size"); }), HasSubstr("false, true"));
  for (const char* bad : {",", "1,", ",1", "1,,2", "1,2,3,4", "0", "x", "1;2"})
    EXPECT_THAT(message_of([&] {
                  options({{"list", bad}}).integers("list", 3, 1, 9);
                }),
                HasSubstr("data.options.list"))
        << bad;
  EXPECT_TRUE(options({}).integers("list", 3, 1, 9).empty());
}

TEST(Modality, TokenizersArePackedAndUnpacked) {
  const std::map<std::string, std::string> values = {{"a", "1"}, {"b", "\xC3\xA9 \"\n"}};
  EXPECT_EQ(unpack_tokenizer("test", pack_tokenizer("test", values)), values);
  EXPECT_THAT(message_of([&] { unpack_tokenizer("other", pack_tokenizer("test", values)); }),
              HasSubstr("does not belong to modality other"));
  for (const char* bad : {"test", "test\n", "test\n[]", "test\n{\"a\": 1}", "test\n{"})
    EXPECT_THAT(message_of([&] { unpack_tokenizer("test", bad); }), HasSubstr("test")) << bad;
}

TEST(Modality, EveryKindRestoresItselfFromItsTokenizer) {
  for (const ModalityKind* kind : modality_kinds()) {
    const auto opened = kind->open(ModalityOptions(*kind, {}));
    const auto restored = restore_modality(kind->name, opened->tokenizer());
    const SequenceFormat &a = opened->format(), &b = restored->format();
    EXPECT_EQ(opened->tokenizer(), restored->tokenizer()) << kind->name;
    EXPECT_EQ(a.vocabulary, b.vocabulary);
    EXPECT_EQ(a.unit, b.unit);
    EXPECT_EQ(a.position_sizes, b.position_sizes);
    EXPECT_EQ(a.shared_positions, b.shared_positions);
    EXPECT_EQ(a.mask, b.mask);
    EXPECT_EQ(a.ends, b.ends);
    EXPECT_FALSE(kind->doc.empty());
    EXPECT_GT(kind->max_file_bytes, 0);
    EXPECT_FALSE(opened->outputs().empty());
    for (const ModalityOption& option : kind->options) EXPECT_FALSE(option.doc.empty()) << option.name;
  }
  EXPECT_THAT(message_of([] { find_modality("odio"); }), HasSubstr("did you mean 'audio'"));
}

TEST(Modality, OptionsMustAgreeWithTheTokenizer) {
  const std::string tokenizer = open_modality("audio", {{"sample_rate", "8000"}})->tokenizer();
  EXPECT_NO_THROW(restore_modality("audio", tokenizer, {{"sample_rate", "8000"}}));
  EXPECT_THAT(message_of([&] {
                restore_modality("audio", tokenizer, {{"sample_rate", "16000"}});
              }),
              AllOf(HasSubstr("16000"), HasSubstr("8000")));
}

TEST(Modality, NoKindCrashesOnAnotherFile) {
  const std::string nonsense = "neither sound nor picture nor array \x01\x02\x03";
  for (const ModalityKind* kind : modality_kinds()) {
    if (kind->endings.empty()) continue;
    const auto modality = kind->open(ModalityOptions(*kind, {}));
    for (const std::string& text : {nonsense, std::string(), std::string(1, '\0')}) {
      const SourceFile file{"some/file", std::as_bytes(std::span(text))};
      EXPECT_THAT(message_of([&] { modality->encode(file); }), HasSubstr("some/file: ")) << kind->name;
    }
  }
}

}  // namespace
}  // namespace perceiver
