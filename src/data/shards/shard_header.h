// The JSON header of a shard, which describes its content (docs/data.md): written and parsed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/file_remark.h"
#include "data/modality.h"
#include "data/shards/shard_format.h"

namespace perceiver {

/// What a shard stores about itself. The modality's shared positions and mask are not included: the tokenizer
/// reproduces them.
struct ShardDescription {
  std::string modality;
  std::string tokenizer;
  std::string split;
  std::string unit;
  int64_t vocabulary = 0;
  int64_t axes = 1;
  PositionKind positions = PositionKind::counted;
  std::vector<int64_t> position_sizes = {};
  bool ends = true;
  std::vector<FileRemark> skipped = {}, repaired = {};  ///< of the source files of this shard
};

/// Where a section lies and what it must hash to.
struct ShardSection {
  /// Bytes from the start of the first section, a multiple of shard_format::alignment. Not from the start of
  /// the file: the header's length would depend on itself.
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t checksum = 0;  ///< XXH3-64
};

/// Longest header accepted, bytes; it includes the tokenizer.
inline constexpr uint64_t shard_max_header = uint64_t{96} << 20;

struct ShardHeader {
  ShardDescription description;
  size_t token_bytes = 2;  ///< 2 or 4
  int64_t documents = 0;
  int64_t tokens = 0;  ///< without SOS and EOS
  std::array<ShardSection, shard_format::section_names.size()> sections = {};
};

std::string write_shard_header(const ShardHeader& header);
/// Throws `user` "<source>: byte <offset>: …" for a field that is missing or out of range; does not compare
/// the sections with the file.
ShardHeader parse_shard_header(std::string_view text, const std::string& source);

}  // namespace perceiver
