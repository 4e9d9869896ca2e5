#include "data/shards/shard_folder.h"

#include <fcntl.h>
#include <fnmatch.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/atomic_folder.h"
#include "io/checksum.h"
#include "io/json_document.h"
#include "io/temporary_name.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr const char* journal_file_name = "build.json";
constexpr uint64_t max_summary = uint64_t{256} << 20;
constexpr int summary_version = 1;

bool matches(const std::string& pattern, const std::string& path) {
  if (pattern.empty()) return false;
  const std::string name = fs::path(path).filename().string();
  return ::fnmatch(pattern.c_str(), path.c_str(), 0) == 0 || ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

std::string endings_of(const ModalityKind& kind) {
  return fmt::format("not a file of modality {} ({})", kind.name, fmt::join(kind.endings, ", "));
}

/// Moves the files that `kind` does not take from `files` to `skipped`.
void keep_taken(std::vector<ListedFile>& files, const ModalityKind& kind, std::vector<SkippedFile>& skipped) {
  for (const ListedFile& file : files) {
    const bool companion = std::any_of(kind.companions.begin(), kind.companions.end(),
                                       [&](auto ending) { return file.relative.ends_with(ending); });
    if (!companion && !kind.takes(file.relative)) skipped.push_back({file.relative, endings_of(kind)});
  }
  std::erase_if(files, [&](const ListedFile& file) { return !kind.takes(file.relative); });
}

SplitFiles inputs_by_folder(const std::string& input, const ModalityKind& kind,
                            std::vector<SkippedFile>& skipped) {
  SplitFiles files;
  for (int i = 0; i < split_count; ++i) {
    const fs::path folder = fs::path(input) / split_name(static_cast<Split>(i));
    std::error_code ignored;
    if (fs::is_directory(folder, ignored)) files[i] = list_files({folder.string()}, "--input", true);
    keep_taken(files[i], kind, skipped);
  }
  for (const ListedFile& file : list_files({input}, "--input", true)) {
    const fs::path top = *fs::path(file.relative).begin();
    const bool inside = top == "train" || top == "validation" || top == "test";
    if (!inside) skipped.push_back({file.relative, "outside the folders train, validation and test"});
  }
  return files;
}

SplitFiles inputs_by_pattern(const std::string& input, const ModalityKind& kind, const SplitOptions& options,
                             std::vector<SkippedFile>& skipped) {
  std::vector<ListedFile> all = list_files({input}, "--input", true), rest;
  keep_taken(all, kind, skipped);
  SplitFiles files;
  for (const ListedFile& file : all) {
    if (matches(options.test, file.relative)) {
      files[static_cast<int>(Split::test)].push_back(file);
    } else if (matches(options.validation, file.relative)) {
      files[static_cast<int>(Split::validation)].push_back(file);
    } else {
      rest.push_back(file);
    }
  }
  for (const Split split : {Split::validation, Split::test}) {
    const std::string& pattern = split == Split::test ? options.test : options.validation;
    if (!pattern.empty() && files[static_cast<int>(split)].empty())
      throw_user("{}: no file matches the {} pattern '{}'", input, split_name(split), pattern);
  }
  if (rest.empty()) return files;
  const double validation = options.validation.empty() ? options.validation_fraction : 0;
  const double test = options.test.empty() ? options.test_fraction : 0;
  const double held_out = static_cast<double>(rest.size()) * (validation + test);
  if (rest.size() == 1 && held_out > 0)
    throw_user(
        "{}: one file cannot be split by fractions; give it folders train/ and validation/, or set the "
        "fractions to 0",
        input);
  const std::vector<Split> chosen = choose_splits(rest, options.seed, validation, test);
  for (size_t i = 0; i < rest.size(); ++i) files[static_cast<int>(chosen[i])].push_back(rest[i]);
  return files;
}

/// Tells one build from another: what goes in and how, by names, sizes and times.
uint64_t fingerprint_of(const std::vector<ShardPlan>& plans, const ModalityKind& kind,
                        const Modality& modality) {
  Checksum checksum;
  const auto add = [&](const std::string& text) {
    checksum.update(std::as_bytes(std::span(text)));
    checksum.update(std::as_bytes(std::span("\0", 1)));
  };
  add(std::string(kind.name));
  add(modality.tokenizer());
  for (const ShardPlan& plan : plans) {
    add(fmt::format("shard {}", split_name(plan.split)));
    for (const ListedFile& file : plan.files)
      add(fmt::format("{} {} {}", file.relative, file.size, file.modified));
  }
  return checksum.digest();
}

/// train-00003-of-00010.shard and so on, numbered within each split.
std::vector<std::string> shard_names(const std::vector<ShardPlan>& plans) {
  std::array<int64_t, split_count> total{}, next{};
  for (const ShardPlan& plan : plans) ++total[static_cast<int>(plan.split)];
  std::vector<std::string> names;
  for (const ShardPlan& plan : plans) {
    const int split = static_cast<int>(plan.split);
    names.push_back(fmt::format("{}-{:05}-of-{:05}{}", split_name(plan.split), next[split]++, total[split],
                                shard_ending));
  }
  return names;
}

/// Makes sure that what the folder holds is this build's.
void claim_folder(const fs::path& folder, const std::string& fingerprint) {
  std::error_code error;
  const fs::path journal = folder / journal_file_name;
  if (!fs::exists(journal, error)) {
    remove_stale_temporaries(folder);
    if (!fs::is_empty(folder, error))
      throw_user("{}: is not empty and holds no unfinished build; choose another folder", folder.string());
    write_file_atomically(journal, OrderedJson{{"fingerprint", fingerprint}}.dump(2) + "\n");
    return;
  }
  const auto json = parse_json_document(read_file(journal, max_summary), journal.string());
  const auto held = json.find("fingerprint");
  if (held == json.end() || *held != fingerprint)
    throw_user(
        "{}: holds a build of other files or options; choose another folder, or remove this one to build "
        "anew",
        folder.string());
  remove_stale_temporaries(folder);
}

/// Creates the folder if need be.
FileDescriptor lock_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw_output_failure("create the folder", folder, error.value());
  FileDescriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file.valid()) throw_output_failure("open the folder", folder, errno);
  if (!try_lock(file)) throw_user("{}: another process builds shards there", folder.string());
  return file;
}

/// Adds what a finished shard holds.
void add_shard(const ShardFile& shard, Split split, const std::string& name, ShardSummary& summary) {
  SplitCounts& counts = summary.splits[static_cast<size_t>(split)];
  ++counts.shards;
  counts.documents += shard.documents();
  counts.tokens += shard.tokens();
  for (int64_t i = 0; i < shard.documents(); ++i) {
    counts.units += shard.document_units(i);
    counts.words += shard.document_words(i);
  }
  const auto& skipped = shard.description().skipped;
  summary.skipped.insert(summary.skipped.end(), skipped.begin(), skipped.end());
  summary.shards.push_back({name, shard.file_bytes(), shard.fingerprint()});
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
  for (const SkippedFile& file : summary.skipped)
    json["skipped"].push_back({{"path", file.path}, {"reason", file.reason}});
  json["shards"] = OrderedJson::array();
  for (const ShardEntry& shard : summary.shards)
    json["shards"].push_back(
        {{"file", shard.file}, {"bytes", shard.bytes}, {"xxh3", hexadecimal(shard.fingerprint)}});
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

/// One build in progress.
class Build {
 public:
  Build(const ModalityKind& kind, const Modality& modality, const fs::path& folder,
        const std::vector<ShardPlan>& plans, const BuildOptions& options)
      : kind_(kind),
        modality_(modality),
        folder_(folder),
        plans_(plans),
        names_(shard_names(plans)),
        options_(options) {
    progress_.shards = static_cast<int64_t>(plans.size());
    for (const ShardPlan& plan : plans) {
      for (const ListedFile& file : plan.files) {
        ++progress_.files;
        progress_.bytes += file.size;
      }
    }
  }

  void run() {
    tell();
    run_in_parallel(static_cast<int64_t>(plans_.size()), options_.workers, [&](int64_t i) {
      const auto index = static_cast<size_t>(i);
      if (!reuse(index)) make(index);
      tell();
    });
  }

  const std::vector<std::string>& names() const { return names_; }

 private:
  void tell() {
    const std::lock_guard lock(mutex_);
    if (options_.progress) options_.progress(progress_);
  }

  /// Takes over a shard that an earlier build finished; false if there is none or it is not sound.
  bool reuse(size_t i) {
    std::error_code ignored;
    if (!fs::exists(folder_ / names_[i], ignored)) return false;
    try {
      const ShardFile shard = ShardFile::open(folder_ / names_[i]);
      shard.verify();
      const std::lock_guard lock(mutex_);
      progress_.done += counts_of(plans_[i], shard);
      ++progress_.shards_done;
      ++progress_.shards_reused;
      return true;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::user) throw;
      return false;
    }
  }

  static EncodeCounts counts_of(const ShardPlan& plan, const ShardFile& shard) {
    EncodeCounts counts{static_cast<int64_t>(plan.files.size()), 0, shard.documents(), shard.tokens(),
                        static_cast<int64_t>(shard.description().skipped.size())};
    for (const ListedFile& file : plan.files) counts.bytes += file.size;
    return counts;
  }

  void make(size_t i) {
    const ShardBuilder builder = encode_shard(plans_[i], kind_, modality_, [&](const EncodeCounts& counts) {
      const std::lock_guard lock(mutex_);
      progress_.done += counts;
      if (options_.progress) options_.progress(progress_);
    });
    AtomicFile file(folder_ / names_[i]);
    builder.write(file.output());
    file.commit();
    const std::lock_guard lock(mutex_);
    ++progress_.shards_done;
  }

  const ModalityKind& kind_;
  const Modality& modality_;
  const fs::path& folder_;
  const std::vector<ShardPlan>& plans_;
  std::vector<std::string> names_;
  const BuildOptions& options_;
  std::mutex mutex_;
  BuildProgress progress_;
};

/// Fields of summary.json; the file may come from anywhere.
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
    throw_user("{}: \"{}\" is missing or not a text; the file is damaged", source, name);
  return found->get<std::string>();
}

const nlohmann::json& member(const nlohmann::json& json, const char* name, const std::string& source) {
  const auto found = json.is_object() ? json.find(name) : json.end();
  if (!json.is_object() || found == json.end())
    throw_user("{}: \"{}\" is missing; the file is damaged", source, name);
  return *found;
}

ShardEntry read_entry(const nlohmann::json& json, const std::string& source) {
  ShardEntry entry{text_in(json, "file", source), count_in(json, "bytes", source), 0};
  const std::string xxh3 = text_in(json, "xxh3", source);
  const auto [end, error] = std::from_chars(xxh3.data(), xxh3.data() + xxh3.size(), entry.fingerprint, 16);
  if (error != std::errc() || end != xxh3.data() + xxh3.size())
    throw_user("{}: \"xxh3\" of {} is no checksum; the file is damaged", source, quote(entry.file));
  if (entry.file.find('/') != std::string::npos || !entry.file.ends_with(shard_ending))
    throw_user("{}: {} is no name of a shard; the file is damaged", source, quote(entry.file));
  return entry;
}

}  // namespace

SplitFiles find_inputs(const std::string& input, const ModalityKind& kind, const SplitOptions& options,
                       std::vector<SkippedFile>& skipped) {
  std::error_code ignored;
  const bool folders = fs::is_directory(fs::path(input) / "train", ignored);
  if (folders && !(options.validation.empty() && options.test.empty()))
    throw_user("{}: has a folder train/, so its folders decide; leave the patterns out", input);
  SplitFiles files =
      folders ? inputs_by_folder(input, kind, skipped) : inputs_by_pattern(input, kind, options, skipped);
  if (files[static_cast<int>(Split::train)].empty())
    throw_user("{}: no file to train on: {} files are none of modality {} ({})", input, skipped.size(),
               kind.name, kind.endings.empty() ? "any" : fmt::format("{}", fmt::join(kind.endings, ", ")));
  return files;
}

ShardSummary build_shards(const SplitFiles& files, std::vector<SkippedFile> skipped, const ModalityKind& kind,
                          const Modality& modality, const fs::path& folder, const BuildOptions& options) {
  const std::vector<ShardPlan> plans = plan_shards(files, modality, options.shard_tokens);
  const FileDescriptor lock = lock_folder(folder);
  claim_folder(folder, hexadecimal(fingerprint_of(plans, kind, modality)));
  Build build(kind, modality, folder, plans, options);
  build.run();

  ShardSummary summary;
  summary.modality = kind.name;
  summary.unit = modality.format().unit;
  summary.vocabulary = modality.format().vocabulary;
  summary.skipped = std::move(skipped);
  for (size_t i = 0; i < plans.size(); ++i)
    add_shard(ShardFile::open(folder / build.names()[i]), plans[i].split, build.names()[i], summary);
  if (summary.splits[static_cast<size_t>(Split::train)].documents == 0) {
    const SkippedFile& first = summary.skipped.front();
    throw_user("no file could be used to train on; the first that was skipped: {}: {}", first.path,
               first.reason);
  }
  write_file_atomically(folder / summary_file_name, summary_text(summary));
  return summary;
}

bool is_shard_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path / journal_file_name, ignored) ||
         fs::is_regular_file(path / summary_file_name, ignored);
}

ShardSummary read_summary(const fs::path& folder) {
  const fs::path path = folder / summary_file_name;
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    throw_user("{}: its build was not finished; run the same `perceiver data build` again, it goes on",
               folder.string());
  const std::string source = path.string();
  const nlohmann::json json = parse_json_document(read_file(path, max_summary), source);
  if (const int64_t version = count_in(json, "version", source); version != summary_version)
    throw_user("{}: version {}; this program reads version {}", source, version, summary_version);
  ShardSummary summary;
  summary.modality = text_in(json, "modality", source);
  summary.unit = text_in(json, "unit", source);
  summary.vocabulary = count_in(json, "vocabulary", source);
  for (int i = 0; i < split_count; ++i) {
    const nlohmann::json& split =
        member(member(json, "splits", source), split_name(static_cast<Split>(i)).data(), source);
    summary.splits[static_cast<size_t>(i)] = {
        count_in(split, "shards", source), count_in(split, "documents", source),
        count_in(split, "tokens", source), count_in(split, "units", source),
        count_in(split, "words", source)};
  }
  for (const nlohmann::json& file : member(json, "skipped", source))
    summary.skipped.push_back({text_in(file, "path", source), text_in(file, "reason", source)});
  for (const nlohmann::json& shard : member(json, "shards", source))
    summary.shards.push_back(read_entry(shard, source));
  return summary;
}

}  // namespace perceiver
