#include "data/shards/shard_file.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "base/text.h"
#include "io/checksum.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

using namespace shard_format;

template <typename Type>
Type load(const std::byte* from) {
  Type value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename Stored>
void copy_wide(const std::byte* from, int64_t count, int32_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int32_t>(load<Stored>(from + i * sizeof(Stored)));
}

}  // namespace

ShardFile ShardFile::open(const std::filesystem::path& path) {
  ShardFile shard;
  shard.source_ = path.string();
  shard.mapping_ = FileView(path);
  shard.file_ = shard.mapping_.bytes();
  shard.read_file();
  return shard;
}

ShardFile ShardFile::parse(std::vector<std::byte> file, const std::string& source) {
  ShardFile shard;
  shard.source_ = source;
  shard.memory_ = std::move(file);
  shard.file_ = shard.memory_;
  shard.read_file();
  return shard;
}

ShardFile ShardFile::parse(std::span<const std::byte> file, const std::string& source) {
  ShardFile shard;
  shard.source_ = source;
  shard.file_ = file;
  shard.read_file();
  return shard;
}

void ShardFile::read_file() {
  const auto fail = [&](uint64_t offset, const std::string& what) {
    throw_user("{}: byte {}: {}", source_, offset, what);
  };
  if (file_.size() < preamble_bytes)
    fail(file_.size(), fmt::format("the file ends here; a shard has at least {} bytes", preamble_bytes));
  const auto preamble = load<Preamble>(file_.data());
  if (std::string_view(preamble.magic, sizeof preamble.magic) != magic)
    fail(0, fmt::format("does not begin with '{}', so it is not a shard", magic));
  if (preamble.version != version)
    fail(offsetof(Preamble, version),
         fmt::format("version {}; this program reads version {}", preamble.version, version));
  if (preamble.file_bytes != file_.size())
    fail(std::min<uint64_t>(preamble.file_bytes, file_.size()),
         fmt::format("the file has {} bytes but was written with {}; it was truncated or extended",
                     file_.size(), preamble.file_bytes));
  if (preamble.header_bytes > shard_max_header || preamble.header_bytes > file_.size() - preamble_bytes)
    fail(offsetof(Preamble, header_bytes),
         fmt::format("a header of {} bytes does not fit into the file (the limit is {})",
                     preamble.header_bytes, shard_max_header));
  const std::span<const std::byte> header = file_.subspan(preamble_bytes, preamble.header_bytes);
  if (checksum_of(header) != preamble.header_checksum)
    fail(preamble_bytes, "the header does not match its checksum; the file is damaged");
  fingerprint_ = preamble.header_checksum;
  header_ = parse_shard_header({reinterpret_cast<const char*>(header.data()), header.size()}, source_);
  for (ShardSection& section : header_.sections) section.offset += aligned(preamble_bytes + header.size());
  check_sections();
  release(0, preamble_bytes + header.size());
}

void ShardFile::check_sections() const {
  const auto documents = static_cast<uint64_t>(header_.documents),
             tokens = static_cast<uint64_t>(header_.tokens);
  const uint64_t positions = header_.description.positions == PositionKind::stored
                                 ? tokens * static_cast<uint64_t>(header_.description.axes)
                                 : 0;
  const uint64_t names = place(Part::names).bytes;
  const std::array<uint64_t, section_names.size()> wanted = {tokens * header_.token_bytes,
                                                             positions * 4,
                                                             documents * 8,
                                                             documents * 8,
                                                             documents * 8,
                                                             names,
                                                             documents * 8};
  for (size_t i = 0; i < section_names.size(); ++i) {
    const ShardSection& section = header_.sections[i];
    if (section.bytes != wanted[i])
      throw_user("{}: byte {}: the header gives section {} {} bytes, but {} documents of {} tokens need {}",
                 source_, preamble_bytes, section_names[i], section.bytes, header_.documents, header_.tokens,
                 wanted[i]);
    if (section.offset > file_.size() || section.bytes > file_.size() - section.offset)
      throw_user("{}: byte {}: section {} of {} bytes does not fit into the file of {}", source_,
                 section.offset, section_names[i], section.bytes, file_.size());
  }
}

std::span<const std::byte> ShardFile::section(Part part) const {
  return file_.subspan(place(part).offset, place(part).bytes);
}

uint64_t ShardFile::offset_of(Part part, int64_t index, size_t width) const {
  return place(part).offset + static_cast<uint64_t>(index) * width;
}

int64_t ShardFile::number(Part part, int64_t index) const {
  PERCEIVER_ASSERT(index >= 0 && index < header_.documents);
  const auto value = load<uint64_t>(file_.data() + offset_of(part, index, 8));
  return static_cast<int64_t>(std::min<uint64_t>(value, INT64_MAX / 64));
}

ShardFile::Extent ShardFile::extent(Part part, int64_t document, uint64_t begin) const {
  const bool tokens = part == Part::ends;
  const uint64_t total = tokens ? static_cast<uint64_t>(header_.tokens) : place(Part::names).bytes;
  const uint64_t offset = offset_of(part, document, 8);
  const auto end = load<uint64_t>(file_.data() + offset);
  const char* name = section_names[static_cast<size_t>(part)].data();
  if (begin > total || end < begin + (tokens ? 1 : 0) || end > total)
    throw_user("{}: byte {}: {} {} of {} is out of order: {} after {}", source_, offset, name, document,
               header_.documents, end, begin);
  if (document == header_.documents - 1 && end != total)
    throw_user("{}: byte {}: the documents' {} end at {}, not at {}", source_, offset, name, end, total);
  return {begin, end};
}

ShardFile::Extent ShardFile::extent(Part part, int64_t document) const {
  PERCEIVER_ASSERT(document >= 0 && document < header_.documents);
  return extent(part, document,
                document == 0 ? 0 : load<uint64_t>(file_.data() + offset_of(part, document - 1, 8)));
}

int64_t ShardFile::document_tokens(int64_t document) const {
  const Extent tokens = extent(Part::ends, document);
  return static_cast<int64_t>(tokens.end - tokens.begin);
}

void ShardFile::lengths(int64_t first, std::span<int64_t> lengths) const {
  const auto count = static_cast<int64_t>(lengths.size());
  PERCEIVER_ASSERT(first >= 0 && first <= header_.documents && count <= header_.documents - first);
  if (count == 0) return;
  const uint64_t offset = offset_of(Part::ends, first, 8);
  fetch(offset, lengths.size() * 8);
  Extent tokens = extent(Part::ends, first);
  lengths[0] = static_cast<int64_t>(tokens.end - tokens.begin);
  for (int64_t i = 1; i < count; ++i) {
    tokens = extent(Part::ends, first + i, tokens.end);
    lengths[static_cast<size_t>(i)] = static_cast<int64_t>(tokens.end - tokens.begin);
  }
  release(offset, lengths.size() * 8);
}

void ShardFile::release(uint64_t offset, uint64_t bytes) const {
  if (!mapping_.bytes().empty()) mapping_.release(offset, bytes);
}

void ShardFile::forget_texts() {
  header_.description.tokenizer.clear();
  header_.description.skipped.clear();
  header_.description.repaired.clear();
}

std::string ShardFile::document_name(int64_t document) const {
  const Extent name = extent(Part::name_ends, document);
  const std::span<const std::byte> names = section(Part::names).subspan(name.begin, name.end - name.begin);
  return printable({reinterpret_cast<const char*>(names.data()), names.size()});
}

uint64_t ShardFile::content_checksum() const {
  Checksum checksum;
  for (const Part part : {Part::tokens, Part::positions, Part::ends, Part::units, Part::words})
    checksum.update(std::as_bytes(std::span(&place(part).checksum, 1)));
  return checksum.digest();
}

int64_t ShardFile::first_token(int64_t document, int64_t first, int64_t count) const {
  const Extent tokens = extent(Part::ends, document);
  release(offset_of(Part::ends, document, 8), 8);
  const auto length = static_cast<int64_t>(tokens.end - tokens.begin);
  PERCEIVER_ASSERT(first >= 0 && count >= 0 && first <= length && count <= length - first);
  return static_cast<int64_t>(tokens.begin) + first;
}

const std::byte* ShardFile::fetch(uint64_t offset, uint64_t bytes) const {
  if (!mapping_.bytes().empty()) mapping_.fetch(offset, bytes);
  return file_.data() + offset;
}

void ShardFile::read(int64_t document, int64_t first, int64_t count, int32_t* out) const {
  const uint64_t offset = offset_of(Part::tokens, first_token(document, first, count), header_.token_bytes);
  const uint64_t bytes = static_cast<uint64_t>(count) * header_.token_bytes;
  const std::byte* from = fetch(offset, bytes);
  header_.token_bytes == 2 ? copy_wide<uint16_t>(from, count, out) : copy_wide<uint32_t>(from, count, out);
  release(offset, bytes);
}

void ShardFile::read_positions(int64_t document, int64_t first, int64_t count, int32_t* out) const {
  PERCEIVER_ASSERT(header_.description.positions == PositionKind::stored);
  const int64_t values = count * header_.description.axes;
  const uint64_t offset =
      offset_of(Part::positions, first_token(document, first, count) * header_.description.axes, 4);
  copy_wide<uint32_t>(fetch(offset, static_cast<uint64_t>(values) * 4), values, out);
  release(offset, static_cast<uint64_t>(values) * 4);
}

void ShardFile::verify() const {
  for (size_t i = 0; i < section_names.size(); ++i)
    if (checksum_of(section(static_cast<Part>(i))) != header_.sections[i].checksum)
      throw_user(
          "{}: byte {}: section {} ({} bytes) does not match its checksum; the file is damaged, rebuild it",
          source_, header_.sections[i].offset, section_names[i], header_.sections[i].bytes);
  verify_order(Part::ends);
  verify_order(Part::name_ends);
  verify_tokens();
  verify_positions();
}

void ShardFile::verify_order(Part part) const {
  uint64_t before = 0;
  for (int64_t i = 0; i < header_.documents; ++i) before = extent(part, i, before).end;
}

void ShardFile::verify_tokens() const {
  const std::byte* first = section(Part::tokens).data();
  for (int64_t i = 0; i < header_.tokens; ++i) {
    const int64_t id =
        header_.token_bytes == 2 ? load<uint16_t>(first + i * 2) : load<uint32_t>(first + i * 4);
    if (id < special_tokens || id >= header_.description.vocabulary)
      throw_user("{}: byte {}: token {} has id {}, outside {} to {}", source_,
                 offset_of(Part::tokens, i, header_.token_bytes), i, id, special_tokens,
                 header_.description.vocabulary - 1);
  }
}

void ShardFile::verify_positions() const {
  if (header_.description.positions != PositionKind::stored) return;
  const std::byte* first = section(Part::positions).data();
  const int64_t count = header_.tokens * header_.description.axes;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size =
        header_.description.position_sizes[static_cast<size_t>(i % header_.description.axes)];
    const int64_t position = load<uint32_t>(first + i * 4);
    if (position < 1 || position >= size)
      throw_user("{}: byte {}: position {} on axis {} is outside 1 to {}", source_,
                 offset_of(Part::positions, i, 4), position, i % header_.description.axes, size - 1);
  }
}

}  // namespace perceiver
