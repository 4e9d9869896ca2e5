#include "train/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>

#include "io/file_descriptor.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

// Field numbers of tensorflow/core/util/event.proto and framework/summary.proto.
enum EventField : uint32_t { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
enum SummaryField : uint32_t { kValue = 1 };
enum ValueField : uint32_t { kTag = 1, kSimpleValue = 2 };
enum SessionLogField : uint32_t { kStatus = 1 };
constexpr uint64_t kSessionStart = 1;

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ ((remainder & 1) * 0x82F63B78u);
    table[byte] = remainder;
  }
  return table;
}

/// Serialises protocol buffer fields.
class Message {
 public:
  Message& integer(uint32_t field, uint64_t value) {
    varint(field << 3);
    varint(value);
    return *this;
  }
  Message& real(uint32_t field, double value) {
    varint(field << 3 | 1);
    return fixed(std::bit_cast<uint64_t>(value));
  }
  Message& real(uint32_t field, float value) {
    varint(field << 3 | 5);
    return fixed(std::bit_cast<uint32_t>(value));
  }
  Message& bytes(uint32_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    text_.append(value);
    return *this;
  }
  const std::string& text() const { return text_; }

  template <typename Integer>
  Message& fixed(Integer value) {
    for (size_t byte = 0; byte < sizeof(Integer); ++byte)
      text_.push_back(static_cast<char>(value >> (8 * byte) & 0xFF));
    return *this;
  }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_.push_back(static_cast<char>(value | 0x80));
    text_.push_back(static_cast<char>(value));
  }
  std::string text_;
};

uint32_t masked_crc(std::string_view text) {
  const uint32_t crc = crc32c(std::as_bytes(std::span(text.data(), text.size())));
  return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

std::string record(const std::string& data) {
  Message length;
  length.fixed(static_cast<uint64_t>(data.size()));
  Message whole;
  whole.fixed(static_cast<uint64_t>(data.size())).fixed(masked_crc(length.text()));
  Message end;
  end.fixed(masked_crc(data));
  return whole.text() + data + end.text();
}

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  char name[256] = "localhost";
  ::gethostname(name, sizeof(name) - 1);
  return name;
}

fs::path new_path(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw_output_failure("create the folder", folder, error.value());
  const std::string base =
      fmt::format("events.out.tfevents.{:010}.{}.{}", static_cast<int64_t>(now()), host_name(), ::getpid());
  fs::path path = folder / base;
  for (int attempt = 1; fs::exists(path, error); ++attempt)
    path = folder / fmt::format("{}.{}", base, attempt);
  return path;
}

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes) {
  static constexpr std::array<uint32_t, 256> table = make_crc_table();
  uint32_t crc = 0xFFFFFFFFu;
  for (const std::byte byte : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint32_t>(byte)) & 0xFF];
  return ~crc;
}

EventFile::EventFile(const fs::path& folder, int64_t first_step) : output_(new_path(folder)) {
  Message version, start, session;
  version.real(kWallTime, now()).bytes(kFileVersion, "brain.Event:2");
  session.integer(kStatus, kSessionStart);
  start.real(kWallTime, now())
      .integer(kStep, static_cast<uint64_t>(first_step))
      .bytes(kSessionLog, session.text());
  output_.write(record(version.text()) + record(start.text()));
}

void EventFile::add(int64_t step, std::span<const Scalar> scalars) {
  Message summary;
  for (const Scalar& scalar : scalars) {
    Message value;
    value.bytes(kTag, scalar.tag).real(kSimpleValue, static_cast<float>(scalar.value));
    summary.bytes(kValue, value.text());
  }
  Message event;
  event.real(kWallTime, now()).integer(kStep, static_cast<uint64_t>(step)).bytes(kSummary, summary.text());
  output_.write(record(event.text()));
}

}  // namespace perceiver
