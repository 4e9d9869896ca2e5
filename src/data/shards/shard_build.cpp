#include "data/shards/shard_build.h"

#include <fcntl.h>

#include <cerrno>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/text.h"
#include "data/shards/shard_file.h"
#include "io/atomic_file.h"
#include "io/atomic_folder.h"
#include "io/checksum.h"
#include "io/json_document.h"
#include "io/temporary_name.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

/// Identifies a build by its modality, its tokenizer, and the names, sizes and times of its files.
uint64_t fingerprint_of(const std::vector<ShardPlan>& plans, const ModalityKind& kind,
                        const Modality& modality, bool strict) {
  Checksum checksum;
  const auto add = [&](const std::string& text) {
    checksum.update(std::as_bytes(std::span(text)));
    checksum.update(std::as_bytes(std::span("\0", 1)));
  };
  add(std::string(kind.name));
  add(modality.tokenizer());
  if (strict) add("strict");
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

/// Makes sure that the folder belongs to this build.
void claim_folder(const fs::path& folder, const std::string& fingerprint) {
  std::error_code error;
  const fs::path journal = folder / journal_file_name;
  if (!fs::exists(journal, error)) {
    remove_stale_temporaries(folder);
    if (!fs::is_empty(folder, error))
      throw_user("{}: is not empty and contains no unfinished build; choose another folder", folder.string());
    write_file_atomically(journal, OrderedJson{{"fingerprint", fingerprint}}.dump(2) + "\n");
    return;
  }
  const auto json = parse_json_document(read_file(journal, max_summary_bytes), journal.string());
  const auto held = json.find("fingerprint");
  if (held == json.end() || *held != fingerprint)
    throw_user(
        "{}: contains a build of other files or options; choose another folder, or remove this one to start "
        "over",
        folder.string());
  remove_stale_temporaries(folder);
}

/// Creates the folder if necessary.
FileDescriptor lock_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw_output_failure("create the folder", folder, error.value());
  FileDescriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file.valid()) throw_output_failure("open the folder", folder, errno);
  if (!try_lock(file)) throw_user("{}: another process is building shards there", folder.string());
  return file;
}

/// Adds the counts of a finished shard.
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
  const auto& repaired = shard.description().repaired;
  summary.repaired.insert(summary.repaired.end(), repaired.begin(), repaired.end());
  summary.shards.push_back({name, shard.file_bytes(), shard.fingerprint(), content_of(shard)});
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
    report();
    run_in_parallel(static_cast<int64_t>(plans_.size()), options_.workers, [&](int64_t i) {
      const auto index = static_cast<size_t>(i);
      if (!reuse(index)) make(index);
      report();
    });
  }

  const std::vector<std::string>& names() const { return names_; }

 private:
  void report() {
    const std::lock_guard lock(mutex_);
    if (options_.progress) options_.progress(progress_);
  }

  /// Reuses a shard that an earlier build finished; false if there is none or it is damaged.
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
    EncodeCounts counts{.files = static_cast<int64_t>(plan.files.size()),
                        .documents = shard.documents(),
                        .tokens = shard.tokens(),
                        .skipped = static_cast<int64_t>(shard.description().skipped.size())};
    for (const ListedFile& file : plan.files) counts.bytes += file.size;
    return counts;
  }

  void make(size_t i) {
    const ShardBuilder builder =
        encode_shard(plans_[i], kind_, modality_, options_.strict, [&](const EncodeCounts& counts) {
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

}  // namespace

ShardSummary build_shards(const SplitFiles& files, std::vector<FileRemark> skipped, const ModalityKind& kind,
                          const Modality& modality, const fs::path& folder, const BuildOptions& options) {
  const std::vector<ShardPlan> plans = plan_shards(files, modality, options.shard_tokens);
  const FileDescriptor lock = lock_folder(folder);
  claim_folder(folder, hexadecimal(fingerprint_of(plans, kind, modality, options.strict)));
  Build build(kind, modality, folder, plans, options);
  build.run();

  ShardSummary summary;
  summary.modality = kind.name;
  summary.unit = modality.format().unit;
  summary.vocabulary = modality.format().vocabulary;
  summary.skipped = std::move(skipped);
  const size_t unread = summary.skipped.size();
  for (size_t i = 0; i < plans.size(); ++i)
    add_shard(ShardFile::open(folder / build.names()[i]), plans[i].split, build.names()[i], summary);
  if (summary.splits[static_cast<size_t>(Split::train)].documents == 0) {
    const FileRemark& first = summary.skipped.at(unread);  // shards for training come first
    throw_user("no file could be used for training; the first skipped: {}: {}", printable(first.path),
               printable(first.remark));
  }
  write_summary(summary, folder);
  return summary;
}

}  // namespace perceiver
