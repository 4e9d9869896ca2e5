#include "io/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/pickle_bytes.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using ::testing::HasSubstr;
using namespace testing;  // parts of pickles
using namespace std::string_literals;

/// A pickle and the bytes that it refers to.
struct Parsed {
  explicit Parsed(std::string bytes)
      : file(std::move(bytes)), pickle(Pickle::parse(std::as_bytes(std::span(file)), "a.pkl")) {}
  const PickleValue& root() const { return pickle.root(); }

  std::string file;
  Pickle pickle;
};

/// The value that these operations leave.
Parsed parse(const std::string& operations) {
  return Parsed("\x80\x04"s + operations + ".");
}

std::string error_of(const std::string& operations) {
  return message_of([&] { parse(operations); });
}

TEST(Pickle, ReadsNumbers) {
  EXPECT_EQ(parse("K\xff"s).root().integer, 255);
  EXPECT_EQ(parse("M\xff\xff"s).root().integer, 65535);
  EXPECT_EQ(parse("J\xff\xff\xff\xff"s).root().integer, -1);
  EXPECT_EQ(parse("\x8a\x00"s).root().integer, 0);
  EXPECT_EQ(parse("\x8a\x01\x80"s).root().integer, -128);
  EXPECT_EQ(parse("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"s).root().integer, INT64_MAX);
  EXPECT_EQ(parse("\x8b\x02\x00\x00\x00\x00\x01"s).root().integer, 256);
  EXPECT_EQ(parse("G\x3f\xf8\x00\x00\x00\x00\x00\x00"s).root().real, 1.5);
  EXPECT_EQ(parse("\x88"s).root().kind, PickleKind::boolean);
  EXPECT_EQ(parse("\x88"s).root().integer, 1);
  EXPECT_EQ(parse("\x89"s).root().integer, 0);
  EXPECT_EQ(parse("N"s).root().kind, PickleKind::none);
  const Parsed big = parse("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01"s);
  EXPECT_EQ(big.root().kind, PickleKind::big_integer);
  EXPECT_EQ(big.root().text, "\0\0\0\0\0\0\0\0\1"s);
}

TEST(Pickle, ReadsStringsAndBytesInPlace) {
  for (const std::string& string :
       {"X\x02\0\0\0hi"s, "\x8c\x02hi"s, "\x8d\x02\0\0\0\0\0\0\0hi"s, "U\x02hi"s, "T\x02\0\0\0hi"s}) {
    const Parsed parsed = parse(string);
    EXPECT_EQ(parsed.root().kind, PickleKind::string);
    EXPECT_EQ(parsed.root().text, "hi");
    EXPECT_EQ(parsed.root().text.data(), parsed.file.data() + parsed.file.find("hi"));
  }
  for (const std::string& bytes :
       {"C\x02hi"s, "B\x02\0\0\0hi"s, "\x8e\x02\0\0\0\0\0\0\0hi"s, "\x96\x02\0\0\0\0\0\0\0hi"s}) {
    const Parsed parsed = parse(bytes);
    EXPECT_EQ(parsed.root().kind, PickleKind::bytes);
    EXPECT_EQ(parsed.root().text, "hi");
  }
}

TEST(Pickle, ReadsContainers) {
  const Parsed list = parse("](K\1K\2eK\3a"s);
  ASSERT_EQ(list.root().items.size(), 3u);
  EXPECT_EQ(list.root().items[2]->integer, 3);
  for (const auto& [tuple, size] :
       {std::pair(")"s, 0u), std::pair("K\1\x85"s, 1u), std::pair("K\1K\1\x86"s, 2u),
        std::pair("K\1K\1K\1\x87"s, 3u), std::pair("(K\1K\1K\1K\1t"s, 4u)}) {
    const Parsed parsed = parse(tuple);
    EXPECT_EQ(parsed.root().kind, PickleKind::tuple);
    EXPECT_EQ(parsed.root().items.size(), size);
  }
  EXPECT_EQ(parse("\x8f(K\1K\2\x90"s).root().items.size(), 2u);
  EXPECT_EQ(parse("(K\1\x91"s).root().kind, PickleKind::set);
  const Parsed dict = parse("}(X\1\0\0\0aK\1X\1\0\0\0bK\2uX\1\0\0\0aK\3s"s);
  EXPECT_EQ(dict.root().entries.size(), 3u);
  EXPECT_EQ(find_entry(dict.root(), "b")->integer, 2);
  EXPECT_EQ(find_entry(dict.root(), "a")->integer, 3) << "of equal keys the last counts";
  EXPECT_EQ(find_entry(dict.root(), "c"), nullptr);
}

TEST(Pickle, KeepsCallsInsteadOfMakingThem) {
  const Parsed parsed = parse("cos\nsystem\nX\2\0\0\0ls\x85R"s);
  EXPECT_EQ(parsed.root().kind, PickleKind::object);
  EXPECT_TRUE(parsed.root().callable->is_global("os", "system"));
  EXPECT_EQ(parsed.root().arguments->items[0]->text, "ls");
  for (const std::string& object : {"\x8c\1m\x8c\1n\x93)\x81"s, "cm\nn\n)}\x92"s})
    EXPECT_TRUE(parse(object).root().callable->is_global("m", "n"));
}

TEST(Pickle, ObjectsHaveStateItemsAndEntries) {
  const Parsed parsed = parse("cm\nn\n)R(K\1K\2eX\1\0\0\0aK\3sK\7b"s);
  EXPECT_EQ(parsed.root().items.size(), 2u);
  EXPECT_EQ(find_entry(parsed.root(), "a")->integer, 3);
  EXPECT_EQ(parsed.root().state->integer, 7);
}

TEST(Pickle, SharesWhatTheMemoNames) {
  const Parsed parsed = parse("]q\1h\1\x86q\2h\2\x86"s);
  EXPECT_EQ(parsed.root().items[0], parsed.root().items[1]);
  EXPECT_EQ(parsed.root().items[0]->items[0], parsed.root().items[0]->items[1]);
  EXPECT_EQ(parse("K\5\x94K\6\x94h\0"s).root().integer, 5);
  EXPECT_EQ(parse("K\5r\0\0\0\1j\0\0\0\1"s).root().integer, 5);
}

TEST(Pickle, KeepsPersistentIds) {
  const Parsed parsed = parse("K\5Q"s);
  EXPECT_EQ(parsed.root().kind, PickleKind::persistent);
  EXPECT_EQ(parsed.root().arguments->integer, 5);
}

TEST(Pickle, ReadsTheOthersOfAFile) {
  const std::string file = whole_pickle("K\1") + whole_pickle("K\2");
  const auto bytes = std::as_bytes(std::span(file));
  const Pickle first = Pickle::parse(bytes, "a.pkl");
  EXPECT_EQ(first.root().integer, 1);
  EXPECT_EQ(Pickle::parse(bytes, "a.pkl", first.end()).root().integer, 2);
}

TEST(Pickle, PopsValuesAndMarks) {
  EXPECT_EQ(parse("K\1K\0020"s).root().integer, 1);
  EXPECT_EQ(parse("K\1(0"s).root().integer, 1);
  EXPECT_EQ(parse("K\1(K\2K\0031"s).root().integer, 1);
  EXPECT_EQ(parse("K\0012\x86"s).root().items.size(), 2u);
}

TEST(Pickle, AListMayContainItself) {
  const Parsed parsed = parse("]q\0h\0a"s);
  EXPECT_EQ(parsed.root().items[0], &parsed.root());
}

TEST(Pickle, DepthDoesNotMatter) {
  constexpr int depth = 1'000'000;
  const Parsed parsed = parse("]" + std::string(depth, '\x85'));
  EXPECT_EQ(parsed.pickle.values().size(), depth + 1u);
}

TEST(Pickle, MemoBombsStayAsSmallAsTheFile) {
  std::string operations = "]";
  for (int i = 0; i < 60; ++i) operations += "2\x86";  // a pair of the same value: 2^60 leaves
  EXPECT_EQ(parse(operations).pickle.values().size(), 61u);
}

TEST(Pickle, BoundsTheNumberOfOperations) {
  EXPECT_THAT(error_of(std::string(Pickle::most_operations + 1, 'N')),
              HasSubstr("more than 8388608 operations"));
}

TEST(Pickle, RefusesTruncatedFiles) {
  const std::string file = whole_pickle(
      pickle_dict({{"a", pickle_tensor(pickle_storage("FloatStorage", "0", 4), 0, {4}, {1})},
                   {"b", "\x8a\x09" + std::string(9, 'x') + "\x8b" + little_endian(4, 4) + "1234\x86"}}));
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_THAT(message_of([&] { Parsed(file.substr(0, size)); }), HasSubstr("a.pkl: byte "));
  EXPECT_THAT(message_of([&] { Parsed(file.substr(0, file.size() - 1)); }), HasSubstr("truncated"));
}

TEST(Pickle, LengthsPastTheEndAllocateNothing) {
  EXPECT_THAT(error_of("\x8e\xff\xff\xff\xff\xff\xff\xff\xffx"s), HasSubstr("a.pkl: byte 2: "));
  EXPECT_THAT(error_of("B\xff\xff\xff\xffx"s), HasSubstr("truncated"));
}

TEST(Pickle, RefusesOperationsWithoutTheirValues) {
  for (const std::string& operations :
       {"0"s, "a"s,      "]a"s,         "K\1K\2a"s,  "s"s,    "}K\1s"s,   "e"s, "](\x90"s,
        "t"s, "\x85"s,   "K\1\x86"s,    "K\1(\x85"s, "R"s,    "K\1K\2R"s, "b"s, "]K\1b"s,
        "Q"s, "\x93"s,   "K\1K\2\x93"s, "q\0"s,      "\x94"s, "h\0"s,     "1"s, "2"s,
        "u"s, "}(K\1u"s, "\x81"s,       "\x92"s,     "\x90"s, ""s})
    EXPECT_THAT(error_of(operations), HasSubstr("damaged"));
}

TEST(Pickle, RefusesWhatItCannotKnow) {
  EXPECT_THAT(error_of("\x82\x01"s), HasSubstr("extension code"));
  EXPECT_THAT(error_of("\x97"s), HasSubstr("buffers outside the file"));
  EXPECT_THAT(error_of("I1\n"s), HasSubstr("protocol 0 or 1"));
  EXPECT_THAT(error_of("\xf0"s), HasSubstr("a.pkl: byte 2: 0xf0 is no operation"));
  EXPECT_THAT(message_of([] { Parsed("\x80\x06N."); }), HasSubstr("protocol 6 is not read"));
  EXPECT_THAT(message_of([] { Parsed("(dp0\n."); }), HasSubstr("no pickle of protocol 2 to 5"));
}

}  // namespace
}  // namespace perceiver
