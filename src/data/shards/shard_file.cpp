#include <algorithm>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/text.h"
#include "data/shards/shard.h"
#include "data/shards/shard_format.h"
#include "data/tokenizer.h"
#include "io/checksum.h"
#include "io/json_document.h"

namespace perceiver {
namespace {

using namespace shard_format;
using Json = nlohmann::json;

/// The fields of a JSON object, each checked as it is taken.
class Fields {
 public:
  Fields(const Json& json, const std::string& source) : json_(json), source_(source) {}

  const Json& get(const char* name) const {
    const auto found = json_.find(name);
    if (found == json_.end()) fail(name, "is missing");
    return *found;
  }
  std::string text(const char* name) const {
    const Json& value = get(name);
    if (!value.is_string()) fail(name, "is not a text");
    return value.get<std::string>();
  }
  int64_t integer(const char* name, int64_t min, int64_t max) const {
    return integer(get(name), name, min, max);
  }
  int64_t integer(const Json& value, const char* name, int64_t min, int64_t max) const {
    const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(max);
    if (!fits || static_cast<int64_t>(value.get<uint64_t>()) < min)
      fail(name, fmt::format("is not a whole number from {} to {}", min, max));
    return static_cast<int64_t>(value.get<uint64_t>());
  }
  bool boolean(const char* name) const {
    const Json& value = get(name);
    if (!value.is_boolean()) fail(name, "is neither true nor false");
    return value.get<bool>();
  }
  const Json& list(const char* name, size_t most) const {
    const Json& value = get(name);
    if (!value.is_array() || value.size() > most) fail(name, fmt::format("is no list of at most {}", most));
    return value;
  }
  Fields object(const char* name) const { return object(get(name), name); }
  Fields object(const Json& value, const char* name) const {
    if (!value.is_object()) fail(name, "is not an object");
    return Fields(value, source_);
  }
  [[noreturn]] void fail(const char* name, const std::string& what) const {
    throw_user("{}: byte {}: the header's \"{}\" {}; the file is damaged or made by another version", source_,
               preamble_bytes, name, what);
  }

 private:
  const Json& json_;
  const std::string& source_;
};

uint64_t read_hexadecimal(const Fields& fields, const char* name) {
  const std::string text = fields.text(name);
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size() || text.size() != 16)
    fields.fail(name, "is not a checksum of 16 hexadecimal digits");
  return value;
}

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
    fail(file_.size(), fmt::format("ends here; a shard has {} bytes at the least", preamble_bytes));
  const auto preamble = load<Preamble>(file_.data());
  if (std::string_view(preamble.magic, sizeof preamble.magic) != magic)
    fail(0, fmt::format("does not begin with '{}', so it is no shard", magic));
  if (preamble.version != version)
    fail(offsetof(Preamble, version),
         fmt::format("version {}; this program reads version {}", preamble.version, version));
  if (preamble.file_bytes != file_.size())
    fail(std::min<uint64_t>(preamble.file_bytes, file_.size()),
         fmt::format("the file has {} bytes and was written with {}; it was cut short or grew", file_.size(),
                     preamble.file_bytes));
  if (preamble.header_bytes > shard_max_header || preamble.header_bytes > file_.size() - preamble_bytes)
    fail(offsetof(Preamble, header_bytes),
         fmt::format("a header of {} bytes does not fit into the file (at most {} are read)",
                     preamble.header_bytes, shard_max_header));
  const std::span<const std::byte> header = file_.subspan(preamble_bytes, preamble.header_bytes);
  if (checksum_of(header) != preamble.header_checksum)
    fail(preamble_bytes, "the header differs from its checksum; the file is damaged");
  fingerprint_ = preamble.header_checksum;
  read_header({reinterpret_cast<const char*>(header.data()), header.size()});
  check_sections();
  check_order(Part::ends, static_cast<uint64_t>(tokens_));
  check_order(Part::name_ends, sections_[static_cast<size_t>(Part::names)].bytes);
}

void ShardFile::read_header(std::string_view text) {
  const Json json = parse_json_document(text, fmt::format("{}: byte {}: header", source_, preamble_bytes));
  if (!json.is_object()) throw_user("{}: byte {}: the header is not a JSON object", source_, preamble_bytes);
  const Fields fields(json, source_);
  ShardDescription& d = description_;
  d.modality = fields.text("modality");
  d.tokenizer = fields.text("tokenizer");
  d.split = fields.text("split");
  d.unit = fields.text("unit");
  d.vocabulary = fields.integer("vocabulary", special_tokens + 1, max_vocabulary);
  d.axes = fields.integer("axes", 1, max_axes);
  const auto kind = std::find(position_kinds.begin(), position_kinds.end(), fields.text("positions"));
  if (kind == position_kinds.end()) fields.fail("positions", "is none of counted, shared, stored");
  d.positions = static_cast<PositionKind>(kind - position_kinds.begin());
  for (const Json& size : fields.list("position_sizes", max_axes))
    d.position_sizes.push_back(fields.integer(size, "position_sizes", 1, max_vocabulary));
  const bool counted = d.positions == PositionKind::counted;
  if (d.position_sizes.size() != (counted ? 0 : static_cast<size_t>(d.axes)) || (counted && d.axes != 1))
    fields.fail("position_sizes", "does not go with its axes");
  d.ends = fields.boolean("ends");
  token_bytes_ = static_cast<size_t>(fields.integer("token_bytes", 2, 4));
  if (token_bytes_ == 3) fields.fail("token_bytes", "is neither 2 nor 4");
  documents_ = fields.integer("documents", 0, INT64_MAX / 64);
  tokens_ = fields.integer("tokens", documents_, INT64_MAX / 64);
  for (const Json& file : fields.list("skipped", SIZE_MAX)) {
    const Fields skipped = fields.object(file, "skipped");
    d.skipped.push_back({skipped.text("path"), skipped.text("reason")});
  }
  const uint64_t first = aligned(preamble_bytes + text.size());
  const Fields sections = fields.object("sections");
  for (size_t i = 0; i < section_names.size(); ++i) {
    const Fields section = sections.object(section_names[i].data());
    const auto offset = static_cast<uint64_t>(section.integer("offset", 0, INT64_MAX / 64));
    if (offset % alignment != 0)
      sections.fail(section_names[i].data(), fmt::format("does not begin at a multiple of {}", alignment));
    sections_[i] = {first + offset, static_cast<uint64_t>(section.integer("bytes", 0, INT64_MAX / 64)),
                    read_hexadecimal(section, "xxh3")};
  }
}

void ShardFile::check_sections() const {
  const auto documents = static_cast<uint64_t>(documents_), tokens = static_cast<uint64_t>(tokens_);
  const uint64_t positions =
      description_.positions == PositionKind::stored ? tokens * static_cast<uint64_t>(description_.axes) : 0;
  const uint64_t names = sections_[static_cast<size_t>(Part::names)].bytes;
  const std::array<uint64_t, part_count> wanted = {tokens * token_bytes_, positions * 4, documents * 8,
                                                   documents * 8,         documents * 8, names,
                                                   documents * 8};
  for (size_t i = 0; i < section_names.size(); ++i) {
    const Section& section = sections_[i];
    if (section.bytes != wanted[i])
      throw_user("{}: byte {}: the header gives section {} {} bytes where {} documents of {} tokens need {}",
                 source_, preamble_bytes, section_names[i], section.bytes, documents_, tokens_, wanted[i]);
    if (section.offset > file_.size() || section.bytes > file_.size() - section.offset)
      throw_user("{}: byte {}: section {} of {} bytes does not fit into the file of {}", source_,
                 section.offset, section_names[i], section.bytes, file_.size());
  }
}

void ShardFile::check_order(Part part, uint64_t total) const {
  uint64_t before = 0;
  const bool tokens = part == Part::ends;
  for (int64_t i = 0; i < documents_; ++i) {
    const uint64_t offset = offset_of(part, i, 8);
    const auto end = load<uint64_t>(file_.data() + offset);
    if (end < before + (tokens ? 1 : 0) || end > total)
      throw_user("{}: byte {}: {} {} of {} is out of order: {} after {}", source_, offset,
                 section_names[static_cast<size_t>(part)], i, documents_, end, before);
    before = end;
  }
  if (before != total)
    throw_user("{}: byte {}: the documents' {} stop at {}, not at {}", source_,
               sections_[static_cast<size_t>(part)].offset, section_names[static_cast<size_t>(part)], before,
               total);
}

std::span<const std::byte> ShardFile::section(Part part) const {
  const Section& s = sections_[static_cast<size_t>(part)];
  return file_.subspan(s.offset, s.bytes);
}

uint64_t ShardFile::offset_of(Part part, int64_t index, size_t width) const {
  return sections_[static_cast<size_t>(part)].offset + static_cast<uint64_t>(index) * width;
}

int64_t ShardFile::number(Part part, int64_t index) const {
  PERCEIVER_ASSERT(index >= 0 && index < documents_);
  const auto value = load<uint64_t>(file_.data() + offset_of(part, index, 8));
  return static_cast<int64_t>(std::min<uint64_t>(value, INT64_MAX / 64));
}

int64_t ShardFile::document_tokens(int64_t document) const {
  return number(Part::ends, document) - start(Part::ends, document);
}

std::string ShardFile::document_name(int64_t document) const {
  const auto last = static_cast<size_t>(number(Part::name_ends, document));
  const auto first = static_cast<size_t>(start(Part::name_ends, document));
  const std::span<const std::byte> names = section(Part::names).subspan(first, last - first);
  return printable({reinterpret_cast<const char*>(names.data()), names.size()});
}

void ShardFile::check_document(int64_t document, int64_t first, int64_t count) const {
  const int64_t length = document_tokens(document);
  PERCEIVER_ASSERT(first >= 0 && count >= 0 && first <= length && count <= length - first);
}

void ShardFile::read(int64_t document, int64_t first, int64_t count, int32_t* out) const {
  check_document(document, first, count);
  const int64_t index = start(Part::ends, document) + first;
  const std::byte* from = file_.data() + offset_of(Part::tokens, index, token_bytes_);
  token_bytes_ == 2 ? copy_wide<uint16_t>(from, count, out) : copy_wide<uint32_t>(from, count, out);
}

void ShardFile::read_positions(int64_t document, int64_t first, int64_t count, int32_t* out) const {
  PERCEIVER_ASSERT(description_.positions == PositionKind::stored);
  check_document(document, first, count);
  const int64_t index = (start(Part::ends, document) + first) * description_.axes;
  copy_wide<uint32_t>(file_.data() + offset_of(Part::positions, index, 4), count * description_.axes, out);
}

void ShardFile::verify() const {
  for (size_t i = 0; i < section_names.size(); ++i)
    if (checksum_of(section(static_cast<Part>(i))) != sections_[i].checksum)
      throw_user(
          "{}: byte {}: section {} ({} bytes) differs from its checksum; the file is damaged, build it anew",
          source_, sections_[i].offset, section_names[i], sections_[i].bytes);
  verify_tokens();
  verify_positions();
}

void ShardFile::verify_tokens() const {
  const std::byte* first = section(Part::tokens).data();
  for (int64_t i = 0; i < tokens_; ++i) {
    const int64_t id = token_bytes_ == 2 ? load<uint16_t>(first + i * 2) : load<uint32_t>(first + i * 4);
    if (id < special_tokens || id >= description_.vocabulary)
      throw_user("{}: byte {}: token {} has id {}, outside {} to {}", source_,
                 offset_of(Part::tokens, i, token_bytes_), i, id, special_tokens,
                 description_.vocabulary - 1);
  }
}

void ShardFile::verify_positions() const {
  if (description_.positions != PositionKind::stored) return;
  const std::byte* first = section(Part::positions).data();
  const int64_t count = tokens_ * description_.axes;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = description_.position_sizes[static_cast<size_t>(i % description_.axes)];
    const int64_t position = load<uint32_t>(first + i * 4);
    if (position < 1 || position >= size)
      throw_user("{}: byte {}: position {} on axis {} is outside 1 to {}", source_,
                 offset_of(Part::positions, i, 4), position, i % description_.axes, size - 1);
  }
}

}  // namespace perceiver
