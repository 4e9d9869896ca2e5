#include "data/arrays/npy.h"

#include <gmock/gmock.h>

#include <cstring>

#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

/// A version 1 file with that header and data.
std::string file(const std::string& header, const std::string& data) {
  std::string text("\x93NUMPY\x01\x00", 8);
  text += static_cast<char>(header.size() & 255);
  text += static_cast<char>(header.size() >> 8);
  return text + header + data;
}

std::string header(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}

std::vector<int64_t> values(const std::string& text) {
  const NpyArray array = NpyArray::parse(bytes(text), "x.npy");
  std::vector<int64_t> out;
  for (int64_t i = 0; i < array.elements(); ++i) out.push_back(array.at(i));
  return out;
}

TEST(Npy, ReadsEveryIntegerType) {
  const std::string one("\xFE\x01", 2);
  EXPECT_EQ(values(file(header("|u1", "(2,)"), one)), (std::vector<int64_t>{254, 1}));
  EXPECT_EQ(values(file(header("|i1", "(2,)"), one)), (std::vector<int64_t>{-2, 1}));
  EXPECT_EQ(values(file(header("|b1", "(1,)"), "\x01")), (std::vector<int64_t>{1}));
  EXPECT_EQ(values(file(header("<u2", "(1,)"), one)), (std::vector<int64_t>{0x01FE}));
  EXPECT_EQ(values(file(header(">u2", "(1,)"), one)), (std::vector<int64_t>{0xFE01}));
  EXPECT_EQ(values(file(header(">i2", "(1,)"), one)), (std::vector<int64_t>{0xFE01 - 65536}));
  const std::string eight("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 8);
  EXPECT_EQ(values(file(header("<i8", "(1,)"), eight)), (std::vector<int64_t>{-1}));
  EXPECT_EQ(values(file(header("<i4", "(2, 1)"), eight)), (std::vector<int64_t>{-1, -1}));
  EXPECT_EQ(values(file(header("<u4", "(1, 2)"), eight)), (std::vector<int64_t>{0xFFFFFFFF, 0xFFFFFFFF}));
  EXPECT_THAT(message_of([&] { values(file(header("<u8", "(1,)"), eight)); }), HasSubstr("too large"));
}

TEST(Npy, ReadsWhatItWrites) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{6}, {2, 3}, {1, 6, 1}}) {
    const std::vector<int32_t> numbers = {1, -2, 3, INT32_MAX, INT32_MIN, 0};
    const std::string text = write_npy(numbers, shape);
    EXPECT_EQ(text.find('\n') % 64, 63u);  // the data begin at a multiple of 64
    const NpyArray array = NpyArray::parse(bytes(text), "x");
    EXPECT_EQ(array.shape(), shape);
    for (size_t i = 0; i < numbers.size(); ++i) EXPECT_EQ(array.at(static_cast<int64_t>(i)), numbers[i]);
  }
  EXPECT_EQ(NpyArray::parse(bytes(write_npy({}, {0})), "x").elements(), 0);
}

TEST(Npy, ReadsColumnMajorOrder) {
  // numpy.arange(6).reshape(2, 3) as numpy.save writes it with order F.
  EXPECT_EQ(values(file(header("|u1", "(2, 3)", "True"), std::string("\0\3\1\4\2\5", 6))),
            (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
  const std::vector<std::string> types = {"|u1", "|i1", "<u2", ">u2", "<i2", "<u4", ">i4", "<i8", ">u8"};
  for (const std::string& type : types) {
    const size_t width = static_cast<size_t>(type[2] - '0');
    std::string data;  // element [a, b, c] of shape [2, 3, 4] is 12 a + 4 b + c; a varies fastest
    for (int c = 0; c < 4; ++c)
      for (int b = 0; b < 3; ++b)
        for (int a = 0; a < 2; ++a) {
          std::string element(width, '\0');
          element[type[0] == '>' ? width - 1 : 0] = static_cast<char>(12 * a + 4 * b + c);
          data += element;
        }
    const std::string whole = file(header(type, "(2, 3, 4)", "True"), data);
    const NpyArray array = NpyArray::parse(bytes(whole), "x");
    for (int64_t i = 0; i < 24; ++i) {
      EXPECT_EQ(array.at(i), i) << type;
      const size_t low = array.offset_of(i) + (type[0] == '>' ? width - 1 : 0);
      EXPECT_EQ(whole[low], static_cast<char>(i));
    }
  }
  EXPECT_EQ(values(file(header("|u1", "(3,)", "True"), "\1\2\3")), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(values(file(header("|u1", "(0, 3)", "True"), "")), (std::vector<int64_t>{}));
  EXPECT_EQ(NpyArray::parse(bytes(file(header("|u1", "(0, 3)", "True"), "")), "x").offset_of(0), 10u + 58u);
}

TEST(Npy, OtherVersionsAndSpellings) {
  std::string two("\x93NUMPY\x02\x00", 8);
  const std::string head = header("|u1", "(1,)");
  two += static_cast<char>(head.size());
  two += std::string(3, '\0') + head + "\x07";
  EXPECT_EQ(values(two), (std::vector<int64_t>{7}));
  EXPECT_EQ(values(file("{\"shape\": (1,), 'fortran_order':True,\"descr\":'|u1'}  \n", "\x07")),
            (std::vector<int64_t>{7}));
  EXPECT_EQ(values(file(header("|u1", "()"), "\x07")), (std::vector<int64_t>{7}));
}

TEST(Npy, EveryTruncationIsOneClearError) {
  const std::string whole = write_npy(std::vector<int32_t>{1, 2, 3}, {3});
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_THAT(message_of([&] { values(whole.substr(0, size)); }),
                AllOf(HasSubstr("x.npy: byte "), testing::Not(HasSubstr("\n"))));
  EXPECT_THAT(message_of([&] { values(whole + "x"); }), HasSubstr("1 bytes follow the last element"));
}

TEST(Npy, WhatIsNoIntegerArrayIsRefused) {
  const auto error = [](const std::string& head, const std::string& data = "12345678") {
    return message_of([&] { values(file(head, data)); });
  };
  EXPECT_THAT(error(header("<f4", "(2,)")), HasSubstr("'<f4'"));
  EXPECT_THAT(error(header("|O", "(2,)")), HasSubstr("'|O'"));
  EXPECT_THAT(error(header("|b8", "(1,)")), HasSubstr("'|b8'"));
  EXPECT_THAT(error(header("<i4", "(3,)")), HasSubstr("ends before the last"));
  EXPECT_THAT(error(header("<i4", "(4611686018427387904, 2)")), HasSubstr("ends before the last"));
  EXPECT_THAT(error(header("<i4", "(99999999999999999999,)")), HasSubstr("dimension is too large"));
  EXPECT_THAT(error(header("<i4", "(1,1,1,1,1,1,1,1,1)")), HasSubstr("more than 8 dimensions"));
  EXPECT_THAT(error(header("<i4", "(-2,)")), HasSubstr("dimension is missing"));
  EXPECT_THAT(error("{'descr': '<i4', 'shape': (2,)}"), HasSubstr("fortran_order or shape is missing"));
  EXPECT_THAT(error("{'descr': '<i4', 'descr': '<i4', }"), HasSubstr("'descr' appears twice"));
  EXPECT_THAT(error("{'what': 1}"), HasSubstr("unknown key 'what'"));
  EXPECT_THAT(error("{'descr': [('a', '<i4')], }"), HasSubstr("structured arrays"));
  EXPECT_THAT(error("{'descr: "), HasSubstr("quoted name"));
  EXPECT_THAT(error(header("<i4", "(2,)") + "x"), HasSubstr("after the dictionary"));
  EXPECT_THAT(message_of([&] { values("PK\x03\x04 an archive"); }), HasSubstr("byte 0"));
  EXPECT_THAT(message_of([&] { values(std::string("\x93NUMPY\x07\x00", 8) + "          "); }),
              HasSubstr("version 7"));
}

}  // namespace
}  // namespace perceiver
