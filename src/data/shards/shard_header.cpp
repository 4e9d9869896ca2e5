#include "data/shards/shard_header.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "io/checksum.h"
#include "io/json_document.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

using namespace shard_format;
using Json = nlohmann::json;

/// The fields of a JSON object, each checked when it is read.
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
    if (!value.is_string()) fail(name, "is not a string");
    return value.get<std::string>();
  }
  int64_t integer(const char* name, int64_t min, int64_t max) const {
    return integer(get(name), name, min, max);
  }
  int64_t integer(const Json& value, const char* name, int64_t min, int64_t max) const {
    const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(max);
    if (!fits || static_cast<int64_t>(value.get<uint64_t>()) < min)
      fail(name, fmt::format("is not an integer from {} to {}", min, max));
    return static_cast<int64_t>(value.get<uint64_t>());
  }
  bool boolean(const char* name) const {
    const Json& value = get(name);
    if (!value.is_boolean()) fail(name, "is neither true nor false");
    return value.get<bool>();
  }
  const Json& list(const char* name, size_t most) const {
    const Json& value = get(name);
    if (!value.is_array() || value.size() > most)
      fail(name, fmt::format("is not a list of at most {}", most));
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

}  // namespace

std::string write_shard_header(const ShardHeader& header) {
  const ShardDescription& d = header.description;
  nlohmann::ordered_json json{
      {"modality", d.modality},
      {"tokenizer", d.tokenizer},
      {"split", d.split},
      {"unit", d.unit},
      {"vocabulary", d.vocabulary},
      {"axes", d.axes},
      {"positions", position_kinds[static_cast<size_t>(d.positions)]},
      {"position_sizes", d.position_sizes},
      {"ends", d.ends},
      {"token_bytes", header.token_bytes},
      {"documents", header.documents},
      {"tokens", header.tokens},
      {"skipped", nlohmann::ordered_json::array()},
      {"repaired", nlohmann::ordered_json::array()},
      {"sections", nlohmann::ordered_json::object()},
  };
  for (const FileRemark& file : d.skipped)
    json["skipped"].push_back({{"path", file.path}, {"reason", file.remark}});
  for (const FileRemark& file : d.repaired)
    json["repaired"].push_back({{"path", file.path}, {"repair", file.remark}});
  for (size_t i = 0; i < section_names.size(); ++i) {
    const ShardSection& section = header.sections[i];
    json["sections"][std::string(section_names[i])] = {
        {"offset", section.offset}, {"bytes", section.bytes}, {"xxh3", hexadecimal(section.checksum)}};
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

ShardHeader parse_shard_header(std::string_view text, const std::string& source) {
  const Json json = parse_json_document(text, fmt::format("{}: byte {}: header", source, preamble_bytes));
  if (!json.is_object()) throw_user("{}: byte {}: the header is not a JSON object", source, preamble_bytes);
  const Fields fields(json, source);
  ShardHeader header;
  ShardDescription& d = header.description;
  d.modality = fields.text("modality");
  d.tokenizer = fields.text("tokenizer");
  d.split = fields.text("split");
  d.unit = fields.text("unit");
  d.vocabulary = fields.integer("vocabulary", special_tokens + 1, max_vocabulary);
  d.axes = fields.integer("axes", 1, max_axes);
  const auto kind = std::find(position_kinds.begin(), position_kinds.end(), fields.text("positions"));
  if (kind == position_kinds.end()) fields.fail("positions", "is not one of counted, shared, stored");
  d.positions = static_cast<PositionKind>(kind - position_kinds.begin());
  for (const Json& size : fields.list("position_sizes", max_axes))
    d.position_sizes.push_back(fields.integer(size, "position_sizes", 1, max_vocabulary));
  const bool counted = d.positions == PositionKind::counted;
  if (d.position_sizes.size() != (counted ? 0 : static_cast<size_t>(d.axes)) || (counted && d.axes != 1))
    fields.fail("position_sizes", "does not match the axes");
  d.ends = fields.boolean("ends");
  header.token_bytes = static_cast<size_t>(fields.integer("token_bytes", 2, 4));
  if (header.token_bytes == 3) fields.fail("token_bytes", "is neither 2 nor 4");
  header.documents = fields.integer("documents", 0, INT64_MAX / 64);
  header.tokens = fields.integer("tokens", header.documents, INT64_MAX / 64);
  for (const Json& file : fields.list("skipped", SIZE_MAX)) {
    const Fields skipped = fields.object(file, "skipped");
    d.skipped.push_back({skipped.text("path"), skipped.text("reason")});
  }
  if (json.contains("repaired")) {  // not in shards of earlier versions
    for (const Json& file : fields.list("repaired", SIZE_MAX)) {
      const Fields repaired = fields.object(file, "repaired");
      d.repaired.push_back({repaired.text("path"), repaired.text("repair")});
    }
  }
  const Fields sections = fields.object("sections");
  for (size_t i = 0; i < section_names.size(); ++i) {
    const Fields section = sections.object(section_names[i].data());
    const auto offset = static_cast<uint64_t>(section.integer("offset", 0, INT64_MAX / 64));
    if (offset % alignment != 0)
      sections.fail(section_names[i].data(), fmt::format("does not start at a multiple of {}", alignment));
    header.sections[i] = {.offset = offset,
                          .bytes = static_cast<uint64_t>(section.integer("bytes", 0, INT64_MAX / 64)),
                          .checksum = read_hexadecimal(section, "xxh3")};
  }
  return header;
}

}  // namespace perceiver
