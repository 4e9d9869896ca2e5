#include "data/shards/shard_summary.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <nlohmann/json.hpp>
#include <span>

#include "base/check.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/checksum.h"
#include "io/file_content.h"
#include "io/json_document.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr int summary_version = 1;
constexpr size_t weight_count = std::bit_width(static_cast<uint64_t>(ShardContent::max_least));

OrderedJson entry_json(const ShardEntry& entry) {
  OrderedJson json{{"file", entry.file}, {"bytes", entry.bytes}, {"xxh3", hexadecimal(entry.fingerprint)}};
  if (!entry.content) return json;
  const ShardContent& content = *entry.content;
  json["split"] = split_name(content.split);
  json["documents"] = content.documents;
  json["tokens"] = content.tokens;
  json["content"] = hexadecimal(content.checksum);
  json["weights"] = content.weights;
  return json;
}

/// Fields of summary.json, which is not trusted.
int64_t count_in(const nlohmann::json& json, const char* name, const std::string& source) {
  const auto found = json.is_object() ? json.find(name) : json.end();
  if (!json.is_object() || found == json.end() || !found->is_number_unsigned() ||
      found->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    throw_user("{}: \"{}\" is missing or not a count; the file is damaged", source, name);
  return found->get<int64_t>();
}

std::string text_in(const nlohmann::json& json, const char* name, const std::string& source) {
  const auto found = json.is_object() ? json.find(name) : json.end();
  if (!json.is_object() || found == json.end() || !found->is_string())
    throw_user("{}: \"{}\" is missing or not a string; the file is damaged", source, name);
  return found->get<std::string>();
}

const nlohmann::json& member(const nlohmann::json& json, const char* name, const std::string& source) {
  const auto found = json.is_object() ? json.find(name) : json.end();
  if (!json.is_object() || found == json.end())
    throw_user("{}: \"{}\" is missing; the file is damaged", source, name);
  return *found;
}

uint64_t checksum_in(const nlohmann::json& json, const char* name, const std::string& file,
                     const std::string& source) {
  const std::string text = text_in(json, name, source);
  uint64_t checksum = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), checksum, 16);
  if (error != std::errc() || end != text.data() + text.size())
    throw_user("{}: \"{}\" of {} is not a checksum; the file is damaged", source, name, quote(file));
  return checksum;
}

Split split_in(const nlohmann::json& json, const std::string& source) {
  const std::string name = text_in(json, "split", source);
  for (int i = 0; i < split_count; ++i)
    if (name == split_name(static_cast<Split>(i))) return static_cast<Split>(i);
  throw_user("{}: \"split\" is {}, which is none; the file is damaged", source, quote(name));
}

ShardContent read_content(const nlohmann::json& json, const std::string& file, const std::string& source) {
  ShardContent content{.split = split_in(json, source),
                       .documents = count_in(json, "documents", source),
                       .tokens = count_in(json, "tokens", source),
                       .checksum = checksum_in(json, "content", file, source),
                       .weights = {}};
  if (content.documents > content.tokens || content.tokens > INT64_MAX / 64)
    throw_user("{}: {} cannot have {} documents of {} tokens; the file is damaged", source, quote(file),
               content.documents, content.tokens);
  for (const nlohmann::json& weight : member(json, "weights", source)) {
    if (!weight.is_number_unsigned() || weight.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX) / 64)
      throw_user("{}: \"weights\" of {} are not counts; the file is damaged", source, quote(file));
    content.weights.push_back(weight.get<int64_t>());
  }
  if (content.weights.size() != weight_count)
    throw_user("{}: \"weights\" of {} are {}, not {}; the file is damaged", source, quote(file),
               content.weights.size(), weight_count);
  return content;
}

ShardEntry read_entry(const nlohmann::json& json, const std::string& source) {
  ShardEntry entry{text_in(json, "file", source), count_in(json, "bytes", source), 0, {}};
  entry.fingerprint = checksum_in(json, "xxh3", entry.file, source);
  if (entry.file.find('/') != std::string::npos || !entry.file.ends_with(shard_ending))
    throw_user("{}: {} is not the name of a shard; the file is damaged", source, quote(entry.file));
  if (json.contains("split")) entry.content = read_content(json, entry.file, source);
  return entry;
}

}  // namespace

ShardContent content_of(const ShardFile& shard) {
  const ShardDescription& d = shard.description();
  ShardContent content{.split = Split::train,
                       .documents = shard.documents(),
                       .tokens = shard.tokens(),
                       .checksum = shard.content_checksum(),
                       .weights = std::vector<int64_t>(weight_count, 0)};
  for (const Split split : {Split::validation, Split::test})
    if (d.split == split_name(split)) content.split = split;
  std::array<int64_t, 4096> lengths;
  for (int64_t first = 0; first < shard.documents(); first += static_cast<int64_t>(lengths.size())) {
    const auto some = std::span(lengths).first(static_cast<size_t>(
        std::min<int64_t>(static_cast<int64_t>(lengths.size()), shard.documents() - first)));
    shard.lengths(first, some);
    for (const int64_t length : some)
      for (size_t k = 0; k < weight_count; ++k)
        content.weights[k] += std::max(int64_t{1} << k, length + (d.ends ? 1 : 0));
  }
  return content;
}

bool is_shard_folder(const fs::path& path) {
  return is_file(path / journal_file_name) || is_file(path / summary_file_name);
}

std::string summary_text(const ShardSummary& summary) {
  OrderedJson json{{"version", summary_version},
                   {"modality", summary.modality},
                   {"unit", summary.unit},
                   {"vocabulary", summary.vocabulary}};
  for (int i = 0; i < split_count; ++i) {
    const SplitCounts& c = summary.splits[static_cast<size_t>(i)];
    json["splits"][std::string(split_name(static_cast<Split>(i)))] = {{"shards", c.shards},
                                                                      {"documents", c.documents},
                                                                      {"tokens", c.tokens},
                                                                      {"units", c.units},
                                                                      {"words", c.words}};
  }
  json["skipped"] = OrderedJson::array();
  for (const FileRemark& file : summary.skipped)
    json["skipped"].push_back({{"path", file.path}, {"reason", file.remark}});
  json["repaired"] = OrderedJson::array();
  for (const FileRemark& file : summary.repaired)
    json["repaired"].push_back({{"path", file.path}, {"repair", file.remark}});
  json["shards"] = OrderedJson::array();
  for (const ShardEntry& shard : summary.shards) json["shards"].push_back(entry_json(shard));
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

ShardSummary read_summary(const fs::path& folder) {
  const fs::path path = folder / summary_file_name;
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    throw_user("{}: its build was not finished; run the same `perceiver data build` again to continue it",
               folder.string());
  return parse_summary(read_file(path, max_summary_bytes), path.string());
}

ShardSummary parse_summary(std::string_view text, const std::string& source) {
  const nlohmann::json json = parse_json_document(text, source);
  if (const int64_t version = count_in(json, "version", source); version != summary_version)
    throw_user("{}: version {}; this program reads version {}", source, version, summary_version);
  ShardSummary summary;
  summary.modality = text_in(json, "modality", source);
  summary.unit = text_in(json, "unit", source);
  summary.vocabulary = count_in(json, "vocabulary", source);
  for (int i = 0; i < split_count; ++i) {
    const nlohmann::json& split =
        member(member(json, "splits", source), split_name(static_cast<Split>(i)).data(), source);
    summary.splits[static_cast<size_t>(i)] = {.shards = count_in(split, "shards", source),
                                              .documents = count_in(split, "documents", source),
                                              .tokens = count_in(split, "tokens", source),
                                              .units = count_in(split, "units", source),
                                              .words = count_in(split, "words", source)};
  }
  for (const nlohmann::json& file : member(json, "skipped", source))
    summary.skipped.push_back({text_in(file, "path", source), text_in(file, "reason", source)});
  if (json.contains("repaired"))  // not in folders of earlier versions
    for (const nlohmann::json& file : json["repaired"])
      summary.repaired.push_back({text_in(file, "path", source), text_in(file, "repair", source)});
  for (const nlohmann::json& shard : member(json, "shards", source))
    summary.shards.push_back(read_entry(shard, source));
  return summary;
}

void write_summary(const ShardSummary& summary, const fs::path& folder) {
  write_file_atomically(folder / summary_file_name, summary_text(summary));
}

}  // namespace perceiver
