#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "io/safetensors.h"
#include "io/safetensors_checksum.h"
#include "io/safetensors_header.h"

namespace perceiver {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors data is little-endian and used in place");

constexpr size_t length_bytes = 8;

constexpr std::pair<std::string_view, size_t> dtype_sizes[] = {
    {"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I64", 8},  {"I32", 4},
    {"I16", 2}, {"I8", 1},  {"U64", 8}, {"U32", 4},  {"U16", 2},     {"U8", 1},      {"BOOL", 1},
};

/// Reads and checks the length of the header; the header fits into `file`.
uint64_t header_length(std::span<const std::byte> file, const std::string& source) {
  if (file.size() < length_bytes)
    throw_user(
        "{}: byte 0: the file has {} bytes, fewer than the 8 of a header length; it is damaged or not a "
        "safetensors file",
        source, file.size());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  if (length > safetensors_max_header)
    throw_user(
        "{}: byte 0: a header of {} bytes is longer than the {} allowed; the file is damaged or not a "
        "safetensors file",
        source, length, safetensors_max_header);
  if (length > file.size() - length_bytes)
    throw_user(
        "{}: byte 0: a header of {} bytes does not fit into the file's {} bytes; the file was truncated",
        source, length, file.size());
  return length;
}

void check_bytes(const SafetensorsEntry& entry, uint64_t data_start, const std::string& source) {
  const int64_t wanted = safetensors_byte_count(entry.dtype, entry.shape);
  if (wanted < 0)
    throw_user("{}: byte {}: the shape of tensor {} is too large; the file is damaged", source, data_start,
               quote(entry.name));
  if (entry.begin > entry.end || entry.end - entry.begin != static_cast<uint64_t>(wanted))
    throw_user("{}: byte {}: tensor {} needs {} bytes but has the range {} to {}; the file is damaged",
               source, data_start, quote(entry.name), wanted, entry.begin, entry.end);
}

/// The tensors, ordered by offset, must cover the data from its first byte to its last.
void check_layout(const std::vector<SafetensorsEntry>& entries, uint64_t data_start, uint64_t data_size,
                  const std::string& source) {
  uint64_t next = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.end > data_size)
      throw_user("{}: byte {}: tensor {} ends {} bytes past the end of the file; the file was truncated",
                 source, data_start + data_size, quote(entry.name), entry.end - data_size);
    if (entry.begin != next)
      throw_user(
          "{}: byte {}: tensor {} starts at data byte {} instead of {} (tensors {}); the file is "
          "damaged",
          source, data_start + next, quote(entry.name), entry.begin, next,
          entry.begin < next ? "overlap" : "leave a gap");
    next = entry.end;
  }
  if (next != data_size)
    throw_user("{}: byte {}: {} bytes follow the last tensor; the file is damaged", source, data_start + next,
               data_size - next);
}

}  // namespace

size_t safetensors_dtype_size(std::string_view dtype) {
  for (const auto& [name, size] : dtype_sizes)
    if (name == dtype) return size;
  return 0;
}

int64_t safetensors_byte_count(std::string_view dtype, std::span<const int64_t> shape) {
  int64_t count = static_cast<int64_t>(safetensors_dtype_size(dtype));
  if (count == 0) return -1;
  for (const int64_t dimension : shape)
    if (dimension < 0 || __builtin_mul_overflow(count, dimension, &count)) return -1;
  return count;
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile result;
  result.source_ = path.string();
  result.mapping_ = FileView(path);
  result.read(result.mapping_.bytes());
  return result;
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> file, const std::string& source) {
  SafetensorsFile result;
  result.source_ = source;
  result.read(file);
  return result;
}

void SafetensorsFile::read(std::span<const std::byte> file) {
  const uint64_t length = header_length(file, source_);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + length_bytes, length);
  SafetensorsHeader header = parse_safetensors_header(text, length_bytes, source_);
  metadata_ = std::move(header.metadata);
  entries_ = std::move(header.entries);
  data_ = file.subspan(length_bytes + length);
  const uint64_t data_start = length_bytes + length;
  for (const SafetensorsEntry& entry : entries_) check_bytes(entry, data_start, source_);
  std::sort(entries_.begin(), entries_.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  check_layout(entries_, data_start, data_.size(), source_);
  for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].name, i);
}

const std::string* SafetensorsFile::find_metadata(const std::string& key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

void SafetensorsFile::verify() const {
  const std::string* stored = find_metadata(safetensors_checksum_key);
  if (stored == nullptr) return;
  std::vector<SafetensorsContent> tensors;
  for (const SafetensorsEntry& entry : entries_) tensors.push_back({&entry, bytes(entry)});
  const std::string actual = safetensors_checksum(metadata_, std::move(tensors));
  if (actual != *stored)
    throw_user(
        "{}: the file is damaged: its content has the checksum {}, but {} was written; restore it from a "
        "copy, "
        "or use it as it is with --no-verify",
        source_, actual, quote(*stored));
}

std::span<const std::byte> SafetensorsFile::bytes(const SafetensorsEntry& entry) const {
  PERCEIVER_ASSERT(entry.begin <= entry.end && entry.end <= data_.size());
  return data_.subspan(entry.begin, entry.end - entry.begin);
}

}  // namespace perceiver
