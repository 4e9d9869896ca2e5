// Shards: files of tokenised documents that are mapped into memory, not read. docs/data.md has the layout.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/modality.h"
#include "io/atomic_file.h"
#include "io/file_view.h"

namespace perceiver {

/// Longest header accepted, bytes; the tokenizer is in it.
inline constexpr uint64_t shard_max_header = uint64_t{96} << 20;
inline constexpr std::string_view shard_ending = ".shard";

/// A source file that could not be used, and why.
struct SkippedFile {
  std::string path;  ///< below the input folder
  std::string reason;
  bool operator==(const SkippedFile&) const = default;
};

/// What a shard says of itself. The modality's shared positions and mask are not in it: its tokenizer has
/// them.
struct ShardDescription {
  std::string modality;
  std::string tokenizer;
  std::string split;
  std::string unit;
  int64_t vocabulary = 0;
  int64_t axes = 1;
  PositionKind positions = PositionKind::counted;
  std::vector<int64_t> position_sizes;
  bool ends = true;
  std::vector<SkippedFile> skipped;  ///< of the files that it was made from
};

/// What is common to all shards of a modality.
ShardDescription describe_shard(std::string_view modality, const Modality& opened, std::string split);

/// Collects documents in memory, then writes them. Ids take two bytes where the vocabulary allows, else four.
class ShardBuilder {
 public:
  explicit ShardBuilder(ShardDescription description);

  /// Adds a document of at least one token. Throws `failure` for ids, positions or units that its modality
  /// promised not to make.
  void add(std::string_view name, const TokenSequence& sequence);
  void skip(SkippedFile file) { description_.skipped.push_back(std::move(file)); }
  int64_t documents() const { return static_cast<int64_t>(ends_.size()); }
  int64_t tokens() const { return tokens_; }

  void write(OutputFile& file) const;
  /// The file's bytes.
  std::vector<std::byte> bytes() const;

 private:
  struct Section {
    std::string_view name;
    std::span<const std::byte> bytes;
  };
  std::vector<Section> sections() const;
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

/// A shard, open for reading: its header and the order of its documents have been checked, its tokens are as
/// they come (`verify` checks all). Reading is thread-safe.
class ShardFile {
 public:
  /// Throws `user` with file and byte offset for anything that is no whole shard.
  static ShardFile open(const std::filesystem::path& path);
  /// A shard in memory, which the object keeps; `source` names it in errors.
  static ShardFile parse(std::vector<std::byte> file, const std::string& source);
  /// The same for memory that others keep.
  static ShardFile parse(std::span<const std::byte> file, const std::string& source);

  const ShardDescription& description() const { return description_; }
  const std::string& source() const { return source_; }
  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }  ///< data tokens, SOS and EOS not counted
  int64_t file_bytes() const { return static_cast<int64_t>(file_.size()); }
  /// XXH3-64 of the header, which holds the sections' checksums: tells one shard from another.
  uint64_t fingerprint() const { return fingerprint_; }

  int64_t document_tokens(int64_t document) const;
  int64_t document_units(int64_t document) const { return number(Part::units, document); }
  int64_t document_words(int64_t document) const { return number(Part::words, document); }
  std::string document_name(int64_t document) const;
  /// Data tokens [first, first + count) of a document.
  void read(int64_t document, int64_t first, int64_t count, int32_t* out) const;
  /// Their positions, [count, A]; only where they are stored.
  void read_positions(int64_t document, int64_t first, int64_t count, int32_t* out) const;

  /// Holds every section against its checksum, every id against the vocabulary, every stored position against
  /// its table. Throws `user` with section and byte offset.
  void verify() const;

 private:
  enum class Part { tokens, positions, ends, units, words, names, name_ends };
  static constexpr int part_count = 7;
  struct Section {
    uint64_t offset = 0;
    uint64_t bytes = 0;
    uint64_t checksum = 0;
  };

  ShardFile() = default;
  void read_file();
  void read_header(std::string_view text);
  void check_sections() const;
  void check_order(Part part, uint64_t total) const;
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
  ShardDescription description_;
  int64_t documents_ = 0;
  int64_t tokens_ = 0;
  size_t token_bytes_ = 2;
  uint64_t fingerprint_ = 0;
  std::array<Section, part_count> sections_;
};

}  // namespace perceiver
