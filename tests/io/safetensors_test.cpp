#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "io/atomic_file.h"
#include "io/checksum.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// A file with that header and `data_size` data bytes.
std::string make_file(const std::string& header, size_t data_size) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  return file + header + std::string(data_size, 'd');
}

SafetensorsFile parse(const std::string& file) {
  return SafetensorsFile::parse(std::as_bytes(std::span(file)), "test.safetensors");
}

std::string error_of(const std::string& file) {
  try {
    parse(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    EXPECT_THAT(error.what(), HasSubstr("test.safetensors: byte "));
    return error.what();
  }
  return "no error";
}

std::string error_of_header(const std::string& header, size_t data_size) {
  return error_of(make_file(header, data_size));
}

class SafetensorsFileTest : public testing::Test {
 protected:
  SafetensorsFileTest() {
    std::string name = (fs::temp_directory_path() / "perceiver-safetensors-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~SafetensorsFileTest() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(SafetensorsFileTest, ReadsBackWhatItWrote) {
  const std::array<int16_t, 3> odd{1, 2, 3};
  const std::array<float, 6> floats{0, 1, 2, 3, 4, 5};
  const double scalar = 1.5;
  SafetensorsWriter writer;
  writer.set_metadata("config", "{\"x\": \"é\\n\"}");
  writer.set_metadata("step", "12");
  writer.add("odd", "I16", {3}, std::as_bytes(std::span(odd)));
  writer.add("floats", "F32", {2, 3}, std::as_bytes(std::span(floats)));
  writer.add("empty", "F32", {0, 5}, {});
  writer.add("scalar", "F64", {}, std::as_bytes(std::span(&scalar, 1)));
  const fs::path path = folder_ / "model.safetensors";
  const uint64_t checksum = writer.write_atomically(path);
  EXPECT_EQ(checksum, file_checksum(path));

  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.metadata().at("config"), "{\"x\": \"é\\n\"}");
  EXPECT_EQ(*file.find_metadata("step"), "12");
  EXPECT_EQ(file.find_metadata("none"), nullptr);
  ASSERT_EQ(file.entries().size(), 4u);
  EXPECT_EQ(file.find("none"), nullptr);
  const SafetensorsEntry* entry = file.find("floats");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->dtype, "F32");
  EXPECT_EQ(entry->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(file.bytes(*entry).data(), floats.data(), sizeof floats), 0);
  EXPECT_EQ(std::memcmp(file.bytes(*file.find("odd")).data(), odd.data(), sizeof odd), 0);
  EXPECT_EQ(std::memcmp(file.bytes(*file.find("scalar")).data(), &scalar, sizeof scalar), 0);
  EXPECT_TRUE(file.bytes(*file.find("empty")).empty());
  for (const SafetensorsEntry& each : file.entries())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.bytes(each).data()) % safetensors_dtype_size(each.dtype), 0u);
}

TEST_F(SafetensorsFileTest, EmptyFileOfNoTensorsReadsBack) {
  SafetensorsWriter().write_atomically(folder_ / "none.safetensors");
  EXPECT_TRUE(SafetensorsFile::open(folder_ / "none.safetensors").entries().empty());
}

TEST_F(SafetensorsFileTest, OpenNamesAMissingOrEmptyFile) {
  EXPECT_THROW(SafetensorsFile::open(folder_ / "none"), Error);
  write_file_atomically(folder_ / "zero", "");
  EXPECT_THROW(SafetensorsFile::open(folder_ / "zero"), Error);
}

TEST_F(SafetensorsFileTest, MovingKeepsTheMapping) {
  const std::array<float, 2> floats{7, 8};
  SafetensorsWriter writer;
  writer.add("a", "F32", {2}, std::as_bytes(std::span(floats)));
  writer.write_atomically(folder_ / "m");
  SafetensorsFile first = SafetensorsFile::open(folder_ / "m");
  const SafetensorsFile second = std::move(first);
  EXPECT_EQ(std::memcmp(second.bytes(second.entries()[0]).data(), floats.data(), sizeof floats), 0);
}

TEST(SafetensorsWriter, RefusesWhatItCouldNotReadBack) {
  const std::array<std::byte, 8> bytes{};
  SafetensorsWriter writer;
  writer.add("a", "F32", {2}, bytes);
  EXPECT_THROW(writer.add("a", "F32", {2}, bytes), Error);
  EXPECT_THROW(writer.add("__metadata__", "F32", {2}, bytes), Error);
  EXPECT_THROW(writer.add("b", "F32", {3}, bytes), Error);
  EXPECT_THROW(writer.add("b", "F99", {2}, bytes), Error);
  EXPECT_THROW(writer.add("b", "F32", {-2}, bytes), Error);
  EXPECT_THROW(writer.add("b", "F32", {INT64_MAX, 4}, bytes), Error);
  writer.set_metadata("key", "\xff");
  OutputFile file("/dev/null");
  EXPECT_THROW(writer.write(file), Error);
}

TEST(Safetensors, ReadsEveryGoldenFile) {
  int count = 0;
  for (const auto& item : fs::directory_iterator(fs::path(PERCEIVER_SOURCE_DIR) / "tests" / "golden")) {
    if (item.is_directory()) continue;
    const SafetensorsFile file = SafetensorsFile::open(item.path());
    EXPECT_NE(file.find_metadata("config"), nullptr) << item.path();
    EXPECT_GT(file.entries().size(), 10u) << item.path();
    ++count;
  }
  EXPECT_GE(count, 9);
}

TEST(Safetensors, AcceptsAnyOrderAndSpacesInTheHeader) {
  const std::string text = make_file(
      R"({ "b": {"shape": [], "data_offsets": [4, 5], "dtype": "U8"}, "__metadata__": {"k": "v"},
           "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]} }  )",
      5);
  const SafetensorsFile file = parse(text);
  EXPECT_EQ(file.entries()[0].name, "a");
  EXPECT_EQ(file.entries()[1].name, "b");
  EXPECT_EQ(file.find("b")->begin, 4u);
  EXPECT_EQ(file.bytes(*file.find("b")).size(), 1u);
}

TEST(Safetensors, RejectsBadLengths) {
  EXPECT_THAT(error_of(""), HasSubstr("fewer than the 8"));
  EXPECT_THAT(error_of("1234567"), HasSubstr("fewer than the 8"));
  EXPECT_THAT(error_of(std::string(8, '\xff')), HasSubstr("longer than the"));
  EXPECT_THAT(error_of(make_file("{}", 0).substr(0, 9)), HasSubstr("does not fit"));
  EXPECT_THAT(error_of(make_file("", 4)), HasSubstr("does not begin with '{'"));
}

TEST(Safetensors, RejectsDamagedHeaders) {
  const std::string entry = R"("dtype":"U8","shape":[2],"data_offsets":[0,2])";
  EXPECT_EQ(error_of_header("{\"a\":{" + entry + "}}", 2), "no error");
  EXPECT_THAT(error_of_header("{\"a\":{" + entry + "}", 2), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of_header("{\"a\":{" + entry + "}}x", 2), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of_header("{\"a\":{" + entry + std::string("}}\0 x", 5), 2), HasSubstr("zero byte"));
  EXPECT_THAT(error_of_header("[]", 0), HasSubstr("does not begin"));
  EXPECT_THAT(error_of_header(" {}", 0), HasSubstr("does not begin"));
  EXPECT_THAT(error_of_header("{\"a\":{" + entry + "},\"a\":{" + entry + "}}", 2),
              HasSubstr("'a' appears twice"));
  EXPECT_THAT(error_of_header("{\"a\":{" + entry + ",\"dtype\":\"U8\"}}", 2),
              HasSubstr("\"dtype\" appears twice"));
  EXPECT_THAT(error_of_header("{\"a\":{" + entry + ",\"x\":1}}", 2), HasSubstr("unknown key 'x'"));
  EXPECT_THAT(error_of_header(R"({"__metadata__":{"k":"1","k":"2"}})", 0), HasSubstr("'k' appears twice"));
  EXPECT_THAT(error_of_header(R"({"__metadata__":{"k":1}})", 0), HasSubstr("a number in the wrong place"));
  EXPECT_THAT(error_of_header(R"({"__metadata__":{"k":{}}})", 0), HasSubstr("an object in the wrong place"));
  EXPECT_THAT(error_of_header(R"({"__metadata__":"k"})", 0), HasSubstr("a string in the wrong place"));
  EXPECT_THAT(error_of_header(R"({"a":[]})", 0), HasSubstr("a list in the wrong place"));
  EXPECT_THAT(error_of_header(R"({"a":null})", 0), HasSubstr("null in the wrong place"));
  EXPECT_THAT(error_of_header(R"({"a":{}})", 0), HasSubstr("lacks \"dtype\""));
  EXPECT_THAT(error_of_header(R"({"a":{"dtype":"U8","data_offsets":[0,0]}})", 0),
              HasSubstr("lacks \"shape\""));
  EXPECT_THAT(error_of_header(R"({"a":{"dtype":"U8","shape":[0]}})", 0), HasSubstr("lacks \"data_offsets\""));
}

TEST(Safetensors, RejectsBadTensors) {
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"a\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + offsets +
           "]}}";
  };
  EXPECT_EQ(error_of_header(tensor("F32", "2", "0,8"), 8), "no error");
  EXPECT_THAT(error_of_header(tensor("F31", "2", "0,8"), 8), HasSubstr("unknown dtype 'F31'"));
  EXPECT_THAT(error_of_header(tensor("F32", "3", "0,8"), 8), HasSubstr("needs 12 bytes"));
  EXPECT_THAT(error_of_header(tensor("F32", "2", "8,0"), 8), HasSubstr("needs 8 bytes"));
  EXPECT_THAT(error_of_header(tensor("F32", "2", "0"), 8), HasSubstr("must hold two numbers"));
  EXPECT_THAT(error_of_header(tensor("F32", "2", "0,8,8"), 8), HasSubstr("must hold two numbers"));
  EXPECT_THAT(error_of_header(tensor("F32", "-2", "0,8"), 8), HasSubstr("a negative number"));
  EXPECT_THAT(error_of_header(tensor("F32", "2.0", "0,8"), 8), HasSubstr("a fraction"));
  EXPECT_THAT(error_of_header(tensor("F32", "[2]", "0,8"), 8), HasSubstr("a list in the wrong place"));
  EXPECT_THAT(error_of_header(tensor("F32", "18446744073709551615", "0,8"), 8),
              HasSubstr("too large a shape"));
  EXPECT_THAT(error_of_header(tensor("F32", "4294967296,4294967296", "0,8"), 8),
              HasSubstr("shape of tensor 'a'"));
  EXPECT_THAT(error_of_header(tensor("F32", "9223372036854775807", "0,8"), 8),
              HasSubstr("shape of tensor 'a'"));
  EXPECT_THAT(error_of_header(tensor("F32", "2", "0,8"), 7), HasSubstr("ends 1 bytes past"));
  EXPECT_THAT(error_of_header(tensor("F32", "2", "0,8"), 9), HasSubstr("1 bytes follow the last tensor"));
  EXPECT_THAT(error_of_header(tensor("U8", "2", "18446744073709551614,18446744073709551616"), 8),
              HasSubstr("byte"));
  std::string dimensions = "1";
  for (int i = 0; i < 64; ++i) dimensions += ",1";
  EXPECT_THAT(error_of_header(tensor("U8", dimensions, "0,1"), 1), HasSubstr("too large a shape"));
}

TEST(Safetensors, RejectsHolesAndOverlaps) {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[)" + first +
           R"(]},"b":{"dtype":"U8","shape":[4],"data_offsets":[)" + second + "]}}";
  };
  EXPECT_EQ(error_of_header(two("0,4", "4,8"), 8), "no error");
  EXPECT_EQ(error_of_header(two("4,8", "0,4"), 8), "no error");
  EXPECT_THAT(error_of_header(two("0,4", "2,6"), 8), HasSubstr("overlap"));
  EXPECT_THAT(error_of_header(two("0,4", "0,4"), 8), HasSubstr("overlap"));
  EXPECT_THAT(error_of_header(two("0,4", "5,9"), 9), HasSubstr("leave a gap"));
  EXPECT_THAT(error_of_header(two("1,5", "5,9"), 9), HasSubstr("leave a gap"));
}

TEST(Safetensors, ErrorsShowNamesOnOnePrintableLine) {
  EXPECT_THAT(error_of_header(R"({"a\n\u001b[2J":{}})", 0), HasSubstr("tensor 'a\\x0a\\x1b[2J' lacks"));
  EXPECT_THAT(error_of_header("{\"" + std::string(1000, 'x') + "\":{}}", 0), HasSubstr("xxx...' lacks"));
}

TEST(Safetensors, ErrorsGiveTheByteOffset) {
  EXPECT_THAT(error_of_header(R"({"a":[]})", 0), HasSubstr("byte 13: "));
}

TEST(Safetensors, EveryTruncationAndManyDamagesOfAFileAreErrorsOrReadable) {
  const std::string whole =
      make_file(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}})", 8);
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_NE(error_of(whole.substr(0, size)), "no error") << size;
  RandomStream random(1, RandomPurpose::batch);
  int readable = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = whole;
    damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
    readable += error_of(damaged) == "no error";
  }
  EXPECT_GT(readable, 0);
  EXPECT_LT(readable, 1500);
}

}  // namespace
}  // namespace perceiver
