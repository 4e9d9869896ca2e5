// Any input is either refused with a perceiver::Error or is a file whose tensors cover its data.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "io/safetensors.h"
#include "perceiver/error.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const perceiver::SafetensorsFile& file) {
  uint64_t next = 0;
  unsigned sum = 0;
  for (const perceiver::SafetensorsEntry& entry : file.entries()) {
    require(entry.begin == next);
    next = entry.end;
    require(file.find(entry.name) == &entry);
    const auto bytes = file.bytes(entry);
    require(static_cast<int64_t>(bytes.size()) ==
            perceiver::safetensors_byte_count(entry.dtype, entry.shape));
    for (const std::byte byte : bytes) sum += static_cast<unsigned>(byte);
  }
  volatile unsigned read = sum;  // keeps the reads from being optimized away
  static_cast<void>(read);
}

/// Errors must fit on one line of a terminal.
void check_message(std::string_view message) {
  for (const char c : message) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
}

void parse(std::span<const std::byte> file) {
  try {
    check(perceiver::SafetensorsFile::parse(file, "fuzz"));
  } catch (const perceiver::Error& error) {
    check_message(error.what());
  }
}

std::vector<uint8_t> file_with_header(std::span<const uint8_t> header, size_t data_size) {
  const uint64_t length = header.size();
  std::vector<uint8_t> file(sizeof length + header.size() + data_size);
  std::memcpy(file.data(), &length, sizeof length);
  std::copy(header.begin(), header.end(), file.begin() + sizeof length);
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> input(data, size);
  parse(std::as_bytes(input));
  // The same bytes as a header with the correct length; the first byte selects how much data follows. Random
  // input almost never has a correct header length.
  if (size == 0) return 0;
  const std::vector<uint8_t> file = file_with_header(input.subspan(1), input[0]);
  parse(std::as_bytes(std::span(file)));
  return 0;
}
