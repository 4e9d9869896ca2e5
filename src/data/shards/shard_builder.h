// Writes a shard.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/shards/shard_header.h"
#include "io/atomic_file.h"

namespace perceiver {

/// The part of the description that all shards of a modality share.
ShardDescription describe_shard(std::string_view modality, const Modality& opened, std::string split);

/// Collects documents in memory, then writes them. Ids take two bytes if the vocabulary allows, else four.
class ShardBuilder {
 public:
  explicit ShardBuilder(ShardDescription description);

  /// Adds a document of at least one token. Throws `failure` for ids, positions or units that violate the
  /// modality's format.
  void add(std::string_view name, const TokenSequence& sequence);
  void skip(FileRemark file) { description_.skipped.push_back(std::move(file)); }
  void repair(FileRemark file) { description_.repaired.push_back(std::move(file)); }
  int64_t documents() const { return static_cast<int64_t>(ends_.size()); }
  int64_t tokens() const { return tokens_; }

  void write(OutputFile& file) const;
  /// The file's bytes.
  std::vector<std::byte> bytes() const;

 private:
  using Sections = std::array<std::span<const std::byte>, shard_format::section_names.size()>;
  Sections sections() const;
  std::string header(uint64_t& file_bytes) const;
  template <typename Sink>
  void emit(Sink&& sink) const;

  ShardDescription description_;
  int64_t tokens_ = 0;
  std::vector<uint16_t> narrow_;     ///< ids, if V ≤ 65536
  std::vector<uint32_t> wide_;       ///< ids, else
  std::vector<uint32_t> positions_;  ///< [tokens, A] if stored
  std::vector<uint64_t> ends_;       ///< one past each document's last token
  std::vector<uint64_t> units_;
  std::vector<uint64_t> words_;
  std::vector<uint64_t> name_ends_;
  std::string names_;
};

}  // namespace perceiver
