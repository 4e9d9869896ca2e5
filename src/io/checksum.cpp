#include "io/checksum.h"

// GCC 12 warns about its own AVX-512 intrinsics; AVX2 already runs at memory speed here.
#if defined(__AVX512F__)
#define XXH_VECTOR XXH_AVX2
#endif
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fmt/format.h>

#include <vector>

#include "io/file_descriptor.h"

namespace perceiver {

struct Checksum::State {
  XXH3_state_t value;
};

Checksum::Checksum() : state_(std::make_unique<State>()) {
  XXH3_INITSTATE(&state_->value);
  XXH3_64bits_reset(&state_->value);
}

Checksum::~Checksum() = default;

void Checksum::update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(&state_->value, bytes.data(), bytes.size());
}

uint64_t Checksum::digest() const {
  return XXH3_64bits_digest(&state_->value);
}

uint64_t checksum_of(std::span<const std::byte> bytes) {
  Checksum checksum;
  checksum.update(bytes);
  return checksum.digest();
}

std::string hexadecimal(uint64_t checksum) {
  return fmt::format("{:016x}", checksum);
}

uint64_t file_checksum(const std::filesystem::path& path) {
  const FileDescriptor file = open_for_reading(path);
  Checksum checksum;
  std::vector<std::byte> buffer(size_t{1} << 20);
  size_t count = 0;
  do {
    count = read_some(file, buffer, path);
    checksum.update(std::span(buffer).first(count));
  } while (count > 0);
  return checksum.digest();
}

}  // namespace perceiver
