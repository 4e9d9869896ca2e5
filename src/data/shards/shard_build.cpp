#include "data/shards/shard_build.h"

#include <cstring>
#include <mutex>
#include <type_traits>

#include "base/check.h"
#include "base/text.h"
#include "data/shards/build_folder.h"
#include "data/shards/shard_file.h"
#include "distributed/together.h"
#include "io/atomic_file.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

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

/// What a rank did.
struct Done {
  EncodeCounts counts;
  int64_t shards = 0, reused = 0;
};
static_assert(std::is_trivially_copyable_v<Done>);

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
    const size_t ranks = options.world != nullptr ? static_cast<size_t>(options.world->size()) : 1;
    for (size_t i = options.world != nullptr ? static_cast<size_t>(options.world->rank()) : 0;
         i < plans.size(); i += ranks)
      mine_.push_back(i);
    for (const size_t i : mine_) expect(plans[i]);
  }

  /// Builds this rank's shards. If that fails, the other ranks stop, too.
  void run() {
    try {
      report();
      const int workers = options_.workers > 0 ? options_.workers : default_threads(options_.world);
      run_in_parallel(static_cast<int64_t>(mine_.size()), workers, [&](int64_t i) {
        const size_t index = mine_[static_cast<size_t>(i)];
        look_at_others();
        if (!reuse(index)) make(index);
        report();
      });
    } catch (...) {
      if (options_.world != nullptr) options_.world->request_stop();
      throw;
    }
  }

  /// Collective: reports what all ranks did.
  void report_all() {
    if (options_.world == nullptr) return;
    const Done mine{progress_.done, progress_.shards_done, progress_.shards_reused};
    BuildProgress all;
    for (const std::string& text : options_.world->gather(
             std::string(reinterpret_cast<const char*>(&mine), sizeof mine), "the end of the build")) {
      Done done;
      PERCEIVER_ASSERT(text.size() == sizeof done);
      std::memcpy(&done, text.data(), sizeof done);
      all.done += done.counts;
      all.shards_done += done.shards;
      all.shards_reused += done.reused;
    }
    all.files = all.done.files, all.bytes = all.done.bytes, all.shards = all.shards_done;
    progress_ = all;
    report();
  }

  const std::vector<std::string>& names() const { return names_; }

 private:
  void expect(const ShardPlan& plan) {
    ++progress_.shards;
    progress_.files += static_cast<int64_t>(plan.files.size());
    for (const ListedFile& file : plan.files) progress_.bytes += file.size;
  }

  /// Between two files.
  void look_at_others() const {
    if (options_.world == nullptr) return;
    options_.world->still_working();
    if (options_.world->stop_requested()) throw Cancelled();
  }

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
          look_at_others();
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
  std::vector<size_t> mine_;  ///< this rank's shards
  std::mutex mutex_;
  BuildProgress progress_;
};

/// Describes the shards, which are all there.
ShardSummary summarize(const fs::path& folder, const std::vector<ShardPlan>& plans,
                       const std::vector<std::string>& names, std::vector<FileRemark> skipped,
                       const ModalityKind& kind, const Modality& modality) {
  ShardSummary summary;
  summary.modality = kind.name;
  summary.unit = modality.format().unit;
  summary.vocabulary = modality.format().vocabulary;
  summary.skipped = std::move(skipped);
  const size_t unread = summary.skipped.size();
  for (size_t i = 0; i < plans.size(); ++i)
    add_shard(ShardFile::open(folder / names[i]), plans[i].split, names[i], summary);
  if (summary.splits[static_cast<size_t>(Split::train)].documents == 0) {
    const FileRemark& first = summary.skipped.at(unread);  // shards for training come first
    throw_user("no file could be used for training; the first skipped: {}: {}", printable(first.path),
               printable(first.remark));
  }
  return summary;
}

}  // namespace

ShardSummary build_shards(const SplitFiles& files, std::vector<FileRemark> skipped, const ModalityKind& kind,
                          const Modality& modality, const fs::path& folder, const BuildOptions& options) {
  World* const world = options.world;
  const bool leads = world == nullptr || world->leads();
  const std::vector<ShardPlan> plans = plan_shards(files, modality, options.shard_tokens);
  const std::string fingerprint = build_fingerprint(plans, kind, modality, options.strict);
  if (world != nullptr) world->require_same(fingerprint, "the files to build from and their times (a hash)");
  FileDescriptor lock;
  together(world, "the start of the build", [&] {
    if (!leads) return;
    lock = lock_folder(folder);
    claim_folder(folder, fingerprint);
  });
  Build build(kind, modality, folder, plans, options);
  together(world, "the build", [&] {
    if (!leads) check_claim(folder, fingerprint);
    build.run();
  });
  build.report_all();

  ShardSummary summary;
  together(world, "the summary of the build", [&] {
    if (!leads) return;
    summary = summarize(folder, plans, build.names(), std::move(skipped), kind, modality);
    write_summary(summary, folder);
  });
  if (world == nullptr || world->size() == 1) return summary;
  return parse_summary(world->from_leader(leads ? summary_text(summary) : "", "the summary of the build"),
                       summary_file_name);
}

}  // namespace perceiver
