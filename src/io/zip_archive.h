// Reads zip archives. minizip reads the directory: unlike libzip it tells where in the file an entry's bytes
// are, so that those stored without compression (all of torch's) are used in place; and it needs only zlib.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

struct ZipEntry {
  std::string name;
  uint64_t offset = 0;      ///< of its first byte in the file
  uint64_t compressed = 0;  ///< bytes in the file
  uint64_t size = 0;        ///< bytes when inflated; the file's word, which read() checks
  uint32_t checksum = 0;    ///< CRC-32 of the inflated bytes
  bool stored = true;       ///< without compression
};

/// An archive in memory. Its directory has been checked: the entries lie inside the file and could have the
/// sizes that they claim.
class ZipArchive {
 public:
  /// `file` must outlive the object; `source` names it in errors. Throws `user` if it is no zip archive, is
  /// damaged, or has entries that are encrypted or compressed other than by deflate.
  static ZipArchive parse(std::span<const std::byte> file, const std::string& source);

  /// In the order of the directory.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// The entry with that name, or nullptr; of several the last.
  const ZipEntry* find(std::string_view name) const;
  /// The bytes of a stored entry, in place. Their checksum is not compared: torch leaves it out on request.
  std::span<const std::byte> stored_bytes(const ZipEntry& entry) const;
  /// A copy of the bytes, inflated if need be. Throws `user` if they do not inflate to the size and checksum
  /// that the directory says.
  std::vector<std::byte> read(const ZipEntry& entry) const;

 private:
  std::vector<std::byte> inflate(const ZipEntry& entry) const;

  std::span<const std::byte> file_;
  std::string source_;
  std::vector<ZipEntry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
};

}  // namespace perceiver
