// XXH3-64 checksums: they detect damage, not forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace perceiver {

/// Incremental XXH3-64 (seed 0).
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

/// XXH3-64 of contiguous bytes.
uint64_t checksum_of(std::span<const std::byte> bytes);

/// 16 lower-case hexadecimal digits.
std::string hexadecimal(uint64_t checksum);

/// XXH3-64 of a whole file. Throws a `user` error if it cannot be opened.
uint64_t file_checksum(const std::filesystem::path& path);

}  // namespace perceiver
