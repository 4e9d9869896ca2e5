// Any input is either refused with a perceiver::Error or is an array whose elements can all be read.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "data/arrays/npy.h"
#include "perceiver/error.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check(std::span<const std::byte> file) {
  try {
    const perceiver::NpyArray array = perceiver::NpyArray::parse(file, "fuzz");
    int64_t elements = 1;
    for (const int64_t dimension : array.shape()) elements *= dimension;
    require(elements == array.elements());
    require(array.elements() <= static_cast<int64_t>(file.size()));
    int64_t sum = 0;
    for (int64_t i = 0; i < array.elements(); ++i) sum ^= array.at(i);
    volatile int64_t read = sum;  // keeps the reads from being optimized away
    static_cast<void>(read);
  } catch (const perceiver::Error& error) {
    const std::string message = error.what();
    require(error.kind() == perceiver::ErrorKind::user);
    for (const char c : message) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> input(data, size);
  check(std::as_bytes(input));
  // The same bytes as a header with the correct length; the first byte selects how much data follows.
  if (size < 2 || size > 4096) return 0;
  std::vector<uint8_t> file = {0x93,
                               'N',
                               'U',
                               'M',
                               'P',
                               'Y',
                               1,
                               0,
                               static_cast<uint8_t>((size - 1) & 255),
                               static_cast<uint8_t>((size - 1) >> 8)};
  file.insert(file.end(), input.begin() + 1, input.end());
  file.resize(file.size() + input[0]);
  check(std::as_bytes(std::span(file)));
  return 0;
}
