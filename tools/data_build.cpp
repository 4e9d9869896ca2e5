// perceiver data build: encodes a folder of files as a folder of shards.
#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdio>

#include "base/check.h"
#include "base/plural.h"
#include "base/text.h"
#include "data/file_notes.h"
#include "data/shards/shard_build.h"
#include "data/shards/shard_inputs.h"
#include "data/text/text_check.h"
#include "distributed/shared_error.h"
#include "distributed/together.h"
#include "tools/data.h"
#include "tools/ranks.h"
#include "train/progress.h"

namespace perceiver::program {
namespace {

struct BuildCommand {
  std::string modality, input, output;
  SplitOptions split;
  BuildOptions build;
};

constexpr size_t kRemarksShown = 5;

double per_second(double amount, double seconds) {
  return seconds > 0 ? amount / seconds : 0;
}

/// Shows the progress of a build: often on a terminal, now and then in the log.
class BuildDisplay {
 public:
  void show(const BuildProgress& p) {
    const double now = seconds();
    const bool logs = p.shards_done == p.shards || now - logged_ >= kSecondsPerMessage;
    if (!logs && now - shown_ < kSecondsPerStatus) return;
    shown_ = now;
    const double left = p.done.bytes > 0 ? now * static_cast<double>(p.bytes - p.done.bytes) /
                                               static_cast<double>(p.done.bytes)
                                         : -1;
    const std::string line = fmt::format(
        "{} of {}, {}, {:.2f}M tokens, {} skipped; {} of {}; {:.1f} MB/s, {} left", p.done.files,
        counted(p.files, "file"), counted(p.done.documents, "document"),
        static_cast<double>(p.done.tokens) / 1e6, p.done.skipped, p.shards_done, counted(p.shards, "shard"),
        per_second(static_cast<double>(p.done.bytes) / 1e6, now), duration_text(left));
    if (logs) logged_ = now;
    logs ? log_progress(line) : show_status(line);
    reused_ = p.shards_reused;
    total_ = p.done;
  }
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  int64_t reused() const { return reused_; }
  const EncodeCounts& total() const { return total_; }

 private:
  static constexpr double kSecondsPerStatus = 0.2, kSecondsPerMessage = 10;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double shown_ = -1e9, logged_ = -1e9;
  int64_t reused_ = 0;
  EncodeCounts total_;
};

/// "3 files skipped", the first of them with their remarks.
void print_remarks(const std::vector<FileRemark>& remarks, const char* did, const std::string& folder) {
  if (remarks.empty()) return;
  fmt::print("  {} {} ({}{}/{}):\n", counted(count_files(remarks), "file"), did,
             remarks.size() > kRemarksShown ? "all in " : "also in ", folder, summary_file_name);
  for (size_t i = 0; i < std::min(kRemarksShown, remarks.size()); ++i)
    std::printf("    %s: %s\n", printable(remarks[i].path).c_str(), printable(remarks[i].remark).c_str());
}

void print_summary(const BuildCommand& options, const ShardSummary& summary, const BuildDisplay& progress) {
  std::printf("%s: modality %s, vocabulary %lld\n", options.output.c_str(), summary.modality.c_str(),
              static_cast<long long>(summary.vocabulary));
  for (int i = 0; i < split_count; ++i) {
    const SplitCounts& c = summary.splits[static_cast<size_t>(i)];
    fmt::print("  {:<10} {:>13} {:>19} {:>19} {:>22}\n", split_name(static_cast<Split>(i)),
               counted(c.shards, "shard"), counted(c.documents, "document"), counted(c.tokens, "token"),
               counted(c.units, summary.unit));
  }
  const double seconds = progress.seconds();
  const EncodeCounts& total = progress.total();
  std::printf("  %.1f s: %.0f files/s, %.1f MB/s, %.2fM tokens/s\n", seconds,
              per_second(static_cast<double>(total.files), seconds),
              per_second(static_cast<double>(total.bytes) / 1e6, seconds),
              per_second(static_cast<double>(total.tokens) / 1e6, seconds));
  if (progress.reused() > 0)
    fmt::print("  {} {} already finished\n", counted(progress.reused(), "shard"),
               progress.reused() == 1 ? "was" : "were");
  print_remarks(summary.skipped, "skipped", options.output);
  print_remarks(summary.repaired, "repaired", options.output);
}

int run(BuildCommand& options, const std::map<std::string, std::string>& modality_options,
        const Globals& globals) {
  const std::shared_ptr<World> world = open_world(globals);
  const ModalityKind& kind = find_modality(options.modality);
  const ModalityOptions chosen(kind, modality_options);
  const auto modality = kind.open(chosen);
  SplitListing inputs = find_inputs(options.input, kind, options.split, text_file_check(kind, chosen));
  for (const std::string& note : inputs.notes) spdlog::warn("{}", note);
  BuildDisplay progress;
  options.build.world = world.get();
  const bool leads = world == nullptr || world->leads();
  options.build.progress = [&](const BuildProgress& p) {
    if (leads) progress.show(p);
  };
  ShardSummary summary;
  try {
    summary =
        build_shards(inputs.files, std::move(inputs.skipped), kind, *modality, options.output, options.build);
  } catch (const Cancelled&) {
    throw SharedError(ErrorKind::failure, "stopped; run the same command again to continue");
  }
  end_progress();
  if (leads) print_summary(options, summary, progress);
  return 0;
}

}  // namespace

void add_data_build(CLI::App& data, Globals& globals, Action& action) {
  auto options = std::make_shared<BuildCommand>();
  CLI::App* command =
      data.add_subcommand("build",
                          "Encode a folder of files as shards; rerun after an interruption to continue. Also "
                          "takes options of the "
                          "modality (see perceiver data modalities), e.g. --sample-rate 8000");
  command
      ->add_option("--modality", options->modality,
                   "image, music, audio, text, … (see perceiver data modalities)")
      ->required();
  command
      ->add_option(
          "--input", options->input,
          "Folder of files; folders train/, validation/ (val, valid, dev) and test/ in it are the splits")
      ->required();
  command->add_option("--output", options->output, "Folder of shards to write")->required();
  command->add_option("--workers", options->build.workers, "Threads (default: one per processor)")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--strict", options->build.strict,
                    "Skip files that can only be read after a repair, instead of repairing them");
  command->add_option("--validation-files", options->split.validation,
                      "Pattern of validation files, e.g. '*_9.wav'");
  command->add_option("--test-files", options->split.test, "Pattern of test files");
  command
      ->add_option(
          "--validation-fraction", options->split.validation_fraction,
          "Fraction of the training files for validation if there is no folder and no pattern for it")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  command->add_option("--test-fraction", options->split.test_fraction, "Fraction for testing, likewise")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  command->add_option("--split-seed", options->split.seed, "Seed of the random split")->capture_default_str();
  command->add_option("--shard-tokens", options->build.shard_tokens, "Approximate tokens per shard")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32))
      ->capture_default_str();
  take_modality_options(*command, globals);
  command->callback([options, command, &globals, &action] {
    action = [options, command, &globals] { return run(*options, modality_options(*command), globals); };
  });
  command->footer(R"(Examples:
  perceiver data build --modality music --input midi/ --output shards/ --validation-fraction 0.1
  perceiver data build --modality audio --input sounds/ --output shards/ --sample-rate 8000
  perceiver data build --modality text --input books/ --output shards/ --validation-files '*_9.txt')");
}

}  // namespace perceiver::program
