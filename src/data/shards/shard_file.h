// Reads a shard: a file of tokenized documents that is mapped into memory (docs/data.md has the layout).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "data/shards/shard_header.h"
#include "io/file_view.h"

namespace perceiver {

/// A shard, open for reading. Opening checks the header and the order of the documents, but not the tokens
/// (`verify` checks everything). Reading is thread-safe.
class ShardFile {
 public:
  /// Throws `user` with the file and byte offset if it is not a complete shard.
  static ShardFile open(const std::filesystem::path& path);
  /// A shard in memory that the object owns; `source` names it in errors.
  static ShardFile parse(std::vector<std::byte> file, const std::string& source);
  /// A shard in memory that the caller keeps alive.
  static ShardFile parse(std::span<const std::byte> file, const std::string& source);

  const ShardDescription& description() const { return header_.description; }
  const std::string& source() const { return source_; }
  int64_t documents() const { return header_.documents; }
  int64_t tokens() const { return header_.tokens; }  ///< data tokens, without SOS and EOS
  int64_t file_bytes() const { return static_cast<int64_t>(file_.size()); }
  /// XXH3-64 of the header, which includes the sections' checksums: identifies the shard.
  uint64_t fingerprint() const { return fingerprint_; }
  /// XXH3-64 of the stored checksums of all sections but the names: identifies the documents, whatever the
  /// files were called that they come from.
  uint64_t content_checksum() const;

  int64_t document_tokens(int64_t document) const;
  int64_t document_units(int64_t document) const { return number(Part::units, document); }
  int64_t document_words(int64_t document) const { return number(Part::words, document); }
  std::string document_name(int64_t document) const;
  /// Data tokens [first, first + count) of a document.
  void read(int64_t document, int64_t first, int64_t count, int32_t* out) const;
  /// Their positions, [count, A]; only where they are stored.
  void read_positions(int64_t document, int64_t first, int64_t count, int32_t* out) const;

  /// Checks every section against its checksum, every id against the vocabulary, and every stored position
  /// against its table. Throws `user` with the section and byte offset.
  void verify() const;

 private:
  enum class Part { tokens, positions, ends, units, words, names, name_ends };

  ShardFile() = default;
  void read_file();
  void check_sections() const;
  void check_order(Part part, uint64_t total) const;
  const ShardSection& place(Part part) const { return header_.sections[static_cast<size_t>(part)]; }
  std::span<const std::byte> section(Part part) const;
  uint64_t offset_of(Part part, int64_t index, size_t width) const;
  int64_t number(Part part, int64_t index) const;
  int64_t start(Part part, int64_t index) const { return index == 0 ? 0 : number(part, index - 1); }
  void check_document(int64_t document, int64_t first, int64_t count) const;
  void verify_tokens() const;
  void verify_positions() const;

  FileView mapping_;
  std::vector<std::byte> memory_;
  std::span<const std::byte> file_;
  std::string source_;
  ShardHeader header_;  ///< with the offsets of the sections counted from the start of the file
  uint64_t fingerprint_ = 0;
};

}  // namespace perceiver
