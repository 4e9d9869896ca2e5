// perceiver data info: describes and verifies shards.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/plural.h"
#include "base/text.h"
#include "data/shards/shard_file.h"
#include "data/shards/shard_summary.h"
#include "tools/data.h"

namespace perceiver::program {
namespace {

namespace fs = std::filesystem;

struct InfoCommand {
  std::string path;
  bool json = false, quick = false;
};

/// Everything that `info` prints about a shard or a folder.
struct Info {
  ShardDescription description;
  std::array<SplitCounts, split_count> splits;
  std::vector<FileRemark> skipped, repaired;
  int64_t bytes = 0;
};

void add(const ShardFile& shard, Info& info) {
  info.description = shard.description();
  info.bytes += shard.file_bytes();
  for (int i = 0; i < split_count; ++i) {
    if (shard.description().split != split_name(static_cast<Split>(i))) continue;
    SplitCounts& counts = info.splits[static_cast<size_t>(i)];
    ++counts.shards;
    counts.documents += shard.documents();
    counts.tokens += shard.tokens();
    for (int64_t d = 0; d < shard.documents(); ++d) {
      counts.units += shard.document_units(d);
      counts.words += shard.document_words(d);
    }
  }
}

Info gather(const InfoCommand& options) {
  Info info;
  const auto take = [&](const ShardFile& shard) {
    if (!options.quick) shard.verify();
    add(shard, info);
  };
  if (!is_shard_folder(options.path)) {
    take(ShardFile::open(options.path));
    info.skipped = info.description.skipped;
    info.repaired = info.description.repaired;
    return info;
  }
  const ShardSummary summary = read_summary(options.path);
  for (const ShardEntry& entry : summary.shards) {
    const ShardFile shard = ShardFile::open(fs::path(options.path) / entry.file);
    if (shard.fingerprint() != entry.fingerprint)
      throw_user("{}: not the shard that {} lists; rebuild the folder", shard.source(), summary_file_name);
    take(shard);
  }
  info.skipped = summary.skipped;
  info.repaired = summary.repaired;
  return info;
}

/// The keys that `model:` must set.
nlohmann::ordered_json model_keys(const ShardDescription& d) {
  nlohmann::ordered_json keys{{"vocabulary", d.vocabulary}};
  if (d.positions == PositionKind::counted) return keys;
  keys["position_encoding"] = "absolute";
  keys["position_sizes"] = d.position_sizes;
  return keys;
}

std::string first_line(const std::string& tokenizer) {
  return quote(tokenizer.substr(0, tokenizer.find('\n')));
}

void print_json(const Info& info, const InfoCommand& options) {
  const ShardDescription& d = info.description;
  nlohmann::ordered_json out{{"modality", d.modality},
                             {"tokenizer", d.tokenizer},
                             {"vocabulary", d.vocabulary},
                             {"unit", d.unit},
                             {"axes", d.axes},
                             {"position_sizes", d.position_sizes},
                             {"bytes", info.bytes},
                             {"verified", !options.quick},
                             {"model", model_keys(d)}};
  for (int i = 0; i < split_count; ++i) {
    const SplitCounts& c = info.splits[static_cast<size_t>(i)];
    out["splits"][std::string(split_name(static_cast<Split>(i)))] = {{"shards", c.shards},
                                                                     {"documents", c.documents},
                                                                     {"tokens", c.tokens},
                                                                     {"units", c.units},
                                                                     {"words", c.words}};
  }
  out["skipped"] = nlohmann::ordered_json::array();
  for (const FileRemark& file : info.skipped)
    out["skipped"].push_back({{"path", file.path}, {"reason", file.remark}});
  out["repaired"] = nlohmann::ordered_json::array();
  for (const FileRemark& file : info.repaired)
    out["repaired"].push_back({{"path", file.path}, {"repair", file.remark}});
  std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void print_text(const Info& info, const InfoCommand& options) {
  const ShardDescription& d = info.description;
  std::printf("%s\n", options.path.c_str());
  std::printf("  modality    %s, tokenizer %s\n", d.modality.c_str(), first_line(d.tokenizer).c_str());
  std::printf("  vocabulary  %lld ids; scored per %s; documents %s\n", static_cast<long long>(d.vocabulary),
              d.unit.c_str(), d.ends ? "end with EOS" : "have no end token");
  std::printf("  positions   %lld %s%s\n", static_cast<long long>(d.axes), d.axes == 1 ? "axis" : "axes",
              d.positions == PositionKind::counted ? ", counted from the start of a row" : "");
  std::printf("  model       %s\n", model_keys(d).dump().c_str());
  for (int i = 0; i < split_count; ++i) {
    const SplitCounts& c = info.splits[static_cast<size_t>(i)];
    fmt::print("  {:<11} {}, {}, {}, {}\n", split_name(static_cast<Split>(i)), counted(c.shards, "shard"),
               counted(c.documents, "document"), counted(c.tokens, "token"), counted(c.units, d.unit));
  }
  std::printf("  size        %lld bytes; %s\n", static_cast<long long>(info.bytes),
              options.quick ? "checksums not verified" : "all checksums, ids and positions are valid");
  for (const FileRemark& file : info.repaired)
    std::printf("  repaired    %s: %s\n", printable(file.path).c_str(), printable(file.remark).c_str());
  for (const FileRemark& file : info.skipped)
    std::printf("  skipped     %s: %s\n", printable(file.path).c_str(), printable(file.remark).c_str());
}

}  // namespace

void add_data_info(CLI::App& data, Globals&, Action& action) {
  auto options = std::make_shared<InfoCommand>();
  CLI::App* command = data.add_subcommand("info", "Describe and verify a shard or a folder of shards");
  command->add_option("shards", options->path, "Folder written by perceiver data build, or a shard")
      ->required();
  command->add_flag("--json", options->json, "Print JSON");
  command->add_flag("--quick", options->quick, "Skip the checksums of the tokens");
  command->callback([options, &action] {
    action = [options] {
      const Info info = gather(*options);
      options->json ? print_json(info, *options) : print_text(info, *options);
      return 0;
    };
  });
  command->footer(R"(Examples:
  perceiver data info shards/
  perceiver data info shards/ --quick --json)");
}

}  // namespace perceiver::program
