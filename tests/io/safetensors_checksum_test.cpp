#include "io/safetensors_checksum.h"

#include <gmock/gmock.h>

#include <array>
#include <cstring>

#include "perceiver/error.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

const std::array<float, 6> kFloats{0, 1, 2, 3, -4, 5};
const std::array<int16_t, 3> kOdd{1, 2, 3};

std::string written() {
  SafetensorsWriter writer;
  writer.set_metadata("tokenizer", "bytes");
  writer.add("odd", "I16", {3}, std::as_bytes(std::span(kOdd)));
  writer.add("floats", "F32", {2, 3}, std::as_bytes(std::span(kFloats)));
  return writer.file();
}

SafetensorsFile parse(const std::string& file) {
  return SafetensorsFile::parse(std::as_bytes(std::span(file)), "model");
}

void verify(const std::string& file) {
  parse(file).verify();
}

TEST(SafetensorsChecksum, HoldsForWhatWasWritten) {
  const std::string file = written();
  EXPECT_TRUE(parse(file).has_checksum());
  EXPECT_NO_THROW(verify(file));
}

// JSON may be written in several ways, so a changed header can mean the same; and without its name the
// checksum is lost, but nothing else.
TEST(SafetensorsChecksum, NoSingleBitCanChangeUnnoticed) {
  const std::string file = written();
  const auto meaning = [](const SafetensorsFile& f) {
    std::string text;
    for (const auto& [key, value] : f.metadata())
      if (key.size() != std::strlen(safetensors_checksum_key)) text += key + '=' + value + ';';
    for (const SafetensorsEntry& entry : f.entries()) text += entry.name + entry.dtype;
    return text;
  };
  const std::string before = meaning(parse(file));
  int unnoticed = 0;
  for (size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::string damaged = file;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    try {
      verify(damaged);
      EXPECT_EQ(meaning(parse(damaged)), before) << "bit " << bit;
      ++unnoticed;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::user);
    }
  }
  EXPECT_LT(unnoticed, 128);  // white space, the name
}

TEST(SafetensorsChecksum, SaysWhatToDo) {
  std::string file = written();
  file.back() = static_cast<char>(file.back() ^ 0x80);
  EXPECT_THAT(
      message_of([&] { verify(file); }),
      testing::AllOf(testing::HasSubstr("model: the file is damaged"), testing::HasSubstr("--no-verify")));
}

TEST(SafetensorsChecksum, FilesOfOthersHaveNone) {
  const std::string header = R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  file += header + "d";
  EXPECT_FALSE(parse(file).has_checksum());
  EXPECT_NO_THROW(verify(file));
}

TEST(SafetensorsChecksum, IsThatOfTheContentNotOfItsOrder) {
  const SafetensorsEntry odd{"odd", "I16", {3}, 0, 6}, floats{"floats", "F32", {2, 3}, 6, 30};
  const SafetensorsContent a{&odd, std::as_bytes(std::span(kOdd))},
      b{&floats, std::as_bytes(std::span(kFloats))};
  const std::map<std::string, std::string> metadata{{"tokenizer", "bytes"}};
  const std::string checksum = safetensors_checksum(metadata, {a, b});
  EXPECT_EQ(safetensors_checksum(metadata, {b, a}), checksum);
  EXPECT_EQ(*parse(written()).find_metadata(safetensors_checksum_key), checksum);
  EXPECT_NE(safetensors_checksum({{"tokenizer", "byte"}, {"s", ""}}, {a, b}), checksum);
  EXPECT_NE(safetensors_checksum(metadata, {a}), checksum);
}

}  // namespace
}  // namespace perceiver
