// XXH3-64 checksums: they tell a damaged file from a good one, not a forged one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace perceiver {

/// XXH3-64 (seed 0) of bytes that arrive in pieces.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void update(std::span<const std::byte> bytes);
  uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// XXH3-64 of bytes that are there at once.
uint64_t checksum_of(std::span<const std::byte> bytes);

/// 16 digits.
std::string hexadecimal(uint64_t checksum);

/// XXH3-64 of a whole file's bytes. `user` error when it cannot be opened.
uint64_t file_checksum(const std::filesystem::path& path);

}  // namespace perceiver
