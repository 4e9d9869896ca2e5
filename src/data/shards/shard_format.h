// The binary layout of a shard, shared by writer and reader (docs/data.md).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace perceiver::shard_format {

inline constexpr std::string_view magic = "PERCSHRD";
inline constexpr uint32_t version = 1;
inline constexpr uint64_t preamble_bytes = 64;
inline constexpr uint64_t alignment = 64;  ///< of the sections
inline constexpr int64_t max_vocabulary = int64_t{1} << 30;
inline constexpr int64_t max_axes = 16;

/// The first bytes of a file, little-endian like every machine this library runs on.
struct Preamble {
  char magic[8];
  uint32_t version;
  uint32_t reserved;         ///< 0
  uint64_t header_bytes;     ///< of the JSON header after the preamble
  uint64_t header_checksum;  ///< XXH3-64
  uint64_t file_bytes;       ///< of the whole file
  uint64_t padding[3];       ///< 0
};
static_assert(sizeof(Preamble) == preamble_bytes);

/// Section names, in the order of ShardFile::Part.
inline constexpr std::array<std::string_view, 7> section_names = {"tokens", "positions", "ends",     "units",
                                                                  "words",  "names",     "name_ends"};
inline constexpr std::array<std::string_view, 3> position_kinds = {"counted", "shared", "stored"};

constexpr uint64_t aligned(uint64_t offset) {
  return (offset + alignment - 1) / alignment * alignment;
}

}  // namespace perceiver::shard_format
