#include "train/tensorboard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <map>

#include "base/check.h"
#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

uint32_t crc_of(std::string_view text) {
  return crc32c(std::as_bytes(std::span(text.data(), text.size())));
}

// RFC 3720, appendix B.4, and the usual check value of "123456789".
TEST(TensorBoard, Crc32cVectors) {
  EXPECT_EQ(crc_of(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc_of(std::string(32, '\xFF')), 0x62A8AB43u);
  std::string rising(32, '\0'), falling(32, '\0');
  for (int i = 0; i < 32; ++i) rising[i] = static_cast<char>(i), falling[i] = static_cast<char>(31 - i);
  EXPECT_EQ(crc_of(rising), 0x46DD794Eu);
  EXPECT_EQ(crc_of(falling), 0x113FDB5Cu);
  EXPECT_EQ(crc_of("123456789"), 0xE3069283u);
  EXPECT_EQ(crc_of(""), 0u);
}

template <typename Value>
Value take(std::string_view& text) {
  Value value;
  if (text.size() < sizeof(value)) throw_failure("the file ends inside a value");
  std::memcpy(&value, text.data(), sizeof(value));
  text.remove_prefix(sizeof(value));
  return value;
}

std::string_view take(std::string_view& text, size_t count) {
  if (text.size() < count) throw_failure("the file ends inside {} bytes", count);
  const std::string_view taken = text.substr(0, count);
  text.remove_prefix(count);
  return taken;
}

/// The checksum unmasked again: the inverse of what the format prescribes.
uint32_t unmasked(uint32_t masked) {
  return std::rotl(masked - 0xA282EAD8u, 15);
}

/// A protocol buffer's fields: numbers as their bits, nested messages as text.
struct Field {
  uint64_t bits = 0;
  std::string text;
};

uint64_t take_varint(std::string_view& text) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = take<uint8_t>(text);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
}

std::multimap<uint64_t, Field> decode(std::string_view text) {
  std::multimap<uint64_t, Field> fields;
  while (!text.empty()) {
    const uint64_t key = take_varint(text);
    Field field;
    if ((key & 7) == 0) field.bits = take_varint(text);
    if ((key & 7) == 1) field.bits = take<uint64_t>(text);
    if ((key & 7) == 2) field.text = take(text, take_varint(text));
    if ((key & 7) == 5) field.bits = take<uint32_t>(text);
    fields.emplace(key >> 3, field);
  }
  return fields;
}

std::vector<std::string> records(std::string_view file) {
  std::vector<std::string> found;
  while (!file.empty()) {
    const std::string_view length_bytes = file.substr(0, 8);
    const auto length = take<uint64_t>(file);
    EXPECT_EQ(unmasked(take<uint32_t>(file)), crc_of(length_bytes));
    found.emplace_back(take(file, length));
    EXPECT_EQ(unmasked(take<uint32_t>(file)), crc_of(found.back()));
  }
  return found;
}

TEST(TensorBoard, WhatIsWrittenReadsBack) {
  const TempFolder folder;
  std::string path;
  {
    EventFile file(folder.path("tensorboard"), 301);
    path = file.path().string();
    const Scalar first[] = {{"train/loss", 1.5}, {"train/bits", -0.25}};
    file.add(301, first);
    const Scalar second[] = {{std::string_view("validation/loss"), 1e-3}};
    file.add(int64_t{1} << 40, second);
  }
  EXPECT_NE(path.find("/tensorboard/events.out.tfevents."), std::string::npos);
  const std::vector<std::string> events = records(read_file(path, 1 << 20));
  ASSERT_EQ(events.size(), 4u);

  const auto version = decode(events[0]);
  EXPECT_EQ(version.find(3)->second.text, "brain.Event:2");
  EXPECT_GT(std::bit_cast<double>(version.find(1)->second.bits), 1.7e9);

  const auto start = decode(events[1]);
  EXPECT_EQ(start.find(2)->second.bits, 301u);
  EXPECT_EQ(decode(start.find(7)->second.text).find(1)->second.bits, 1u);

  const auto event = decode(events[2]);
  EXPECT_EQ(event.find(2)->second.bits, 301u);
  const auto values = decode(event.find(5)->second.text);
  ASSERT_EQ(values.count(1), 2u);
  const auto loss = decode(values.lower_bound(1)->second.text);
  EXPECT_EQ(loss.find(1)->second.text, "train/loss");
  EXPECT_EQ(std::bit_cast<float>(static_cast<uint32_t>(loss.find(2)->second.bits)), 1.5f);
  const auto bits = decode(std::next(values.lower_bound(1))->second.text);
  EXPECT_EQ(bits.find(1)->second.text, "train/bits");
  EXPECT_EQ(std::bit_cast<float>(static_cast<uint32_t>(bits.find(2)->second.bits)), -0.25f);

  EXPECT_EQ(decode(events[3]).find(2)->second.bits, uint64_t{1} << 40);
}

TEST(TensorBoard, FilesOfTheSameSecondDoNotCollide) {
  const TempFolder folder;
  const EventFile first(folder.path(), 1), second(folder.path(), 1);
  EXPECT_NE(first.path(), second.path());
}

}  // namespace
}  // namespace perceiver
