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

/// A shard, open for reading. Opening reads and checks the header alone. Of a file mapped into memory, what
/// is read does not stay in this process's memory. The places of documents are checked when they are read,
/// the tokens never; `verify` checks everything. Reading is thread-safe.
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

  /// Forgets the tokenizer and the remarks of the description: of many shards, one has to know them.
  void forget_texts();

  /// This and the following throw `user` with the byte offset if documents are out of order.
  int64_t document_tokens(int64_t document) const;
  /// document_tokens of documents [first, first + lengths.size()).
  void lengths(int64_t first, std::span<int64_t> lengths) const;
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
  void verify_order(Part part) const;
  const ShardSection& place(Part part) const { return header_.sections[static_cast<size_t>(part)]; }
  std::span<const std::byte> section(Part part) const;
  uint64_t offset_of(Part part, int64_t index, size_t width) const;
  int64_t number(Part part, int64_t index) const;
  /// Where a document begins and ends in a section.
  struct Extent {
    uint64_t begin, end;
  };
  /// `begin`: where the document before it ends.
  Extent extent(Part part, int64_t document, uint64_t begin) const;
  Extent extent(Part part, int64_t document) const;
  /// Lets go of pages that were read.
  void release(uint64_t offset, uint64_t bytes) const;
  /// Index in the shard of a document's token `first`, of which `count` are to be read.
  int64_t first_token(int64_t document, int64_t first, int64_t count) const;
  const std::byte* fetch(uint64_t offset, uint64_t bytes) const;
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
