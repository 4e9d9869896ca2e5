// What the ranks of a run agree on.
#include <algorithm>
#include <sstream>

#include "base/check.h"
#include "config/save.h"
#include "io/checksum.h"
#include "train/open_run.h"
#include "train/trainer.h"

namespace perceiver {
namespace {

/// The first line in which two texts differ, as "HERE instead of THERE".
std::string first_difference(const std::string& text, const std::string& reference) {
  std::istringstream a(text), b(reference);
  for (std::string x, y;;) {
    const bool more = static_cast<bool>(std::getline(a, x));
    if (!std::getline(b, y) && !more) return "nothing";
    if (x != y) return fmt::format("'{}' instead of '{}'", x, y);
  }
}

/// A configuration without what may differ from rank to rank.
std::string common_text(Config config) {
  config.threads = 0;
  return to_yaml(config);
}

std::string data_text(const DataRecord& data) {
  std::string text = fmt::format("fingerprint {}\n", hexadecimal(data.fingerprint));
  for (const DataRecord::Part& part : data.splits)
    text += fmt::format("{} documents of {} tokens\n", part.documents, part.tokens);
  return text;
}

void require_same_lines(World& world, const std::string& mine, std::string_view what) {
  const std::vector<std::string> all = world.gather(mine, what);
  for (size_t rank = 1; rank < all.size(); ++rank)
    if (all[rank] != all[0])
      throw_user("rank {} has another {} than rank 0: {}; start every rank with the same one", rank, what,
                 first_difference(all[rank], all[0]));
}

}  // namespace

bool Trainer::any_rank(bool mine, std::string_view what) const {
  return options_.world == nullptr ? mine : options_.world->any(mine, what);
}

/// Rank 0 creates the folder and holds its lock; the others look into it.
std::optional<RunFolder> Trainer::open_folder() const {
  if (options_.folder.empty() && options_.resume)
    throw_user("a run without a folder leaves nothing to resume from; name the folder");
  if (options_.folder.empty()) return std::nullopt;
  const std::string opened = "the run folder";
  if (!leads()) {
    options_.world->gather("", opened);
    return RunFolder::opened_elsewhere(options_.folder);
  }
  std::error_code ignored;
  if (options_.resume && !std::filesystem::is_directory(options_.folder, ignored))
    throw_user("{}: no such folder to resume a run from", options_.folder.string());
  RunFolder folder(options_.folder);
  const bool continues = options_.resume && !folder.checkpoints().steps().empty();
  if (!continues) options_.resume ? folder.require_started() : require_no_run(options_.folder);
  if (options_.world != nullptr) options_.world->gather("", opened);
  return folder;
}

void Trainer::check_ranks() const {
  if (options_.world == nullptr) return;
  require_same_lines(*options_.world, common_text(config_), "configuration");
  require_same_lines(*options_.world, data_text(record_), "data");
}

/// Rank 0 chooses and checks a checkpoint; all read it.
ResumePoint Trainer::find_resume_point() const {
  if (options_.world == nullptr) return folder_->find_resume_point();
  ResumePoint point;
  if (leads()) point = folder_->find_resume_point();
  const std::string step = options_.world->from_leader(std::to_string(point.state.step), "the checkpoint");
  if (!leads()) point.state = read_checkpoint_state(folder_->checkpoints().path(std::stoll(step)));
  return point;
}

// Ranks notice signals and read clocks at different times, so what they do next depends on what each step's
// report says that all of them wanted when they started it.

StepSignals Trainer::signals() const {
  if (options_.world == nullptr) return {};
  return {.stop = wants_to_stop() ? 1.0 : 0.0,
          .time = leads() && has_used_its_time() ? 1.0 : 0.0,
          .save = writes() && save_timer_.due() ? 1.0 : 0.0,
          .used = leads() ? share_of_schedule(elapsed()) : 0.0};
}

double Trainer::share_of_schedule(double seconds) const {
  const double until = config_.schedule.until;
  return until > 0 ? std::min(1.0, seconds / until) : 0;
}

double Trainer::schedule_used() const {
  return options_.world == nullptr ? share_of_schedule(elapsed()) : agreed_.used;
}

bool Trainer::wants_to_stop() const {
  const bool asked = options_.stop != nullptr && options_.stop->load(std::memory_order_relaxed);
  const bool elsewhere = options_.world != nullptr && options_.world->stop_requested();
  return asked || elsewhere || (folder_ && folder_->moved());
}

bool Trainer::has_used_its_time() const {
  return config_.train.max_minutes > 0 && seconds() >= 60 * config_.train.max_minutes;
}

bool Trainer::stopped() const {
  return options_.world == nullptr ? wants_to_stop() : agreed_.stop > 0;
}

bool Trainer::out_of_time() const {
  return options_.world == nullptr ? has_used_its_time() : agreed_.time > 0;
}

bool Trainer::save_is_due() const {
  return options_.world == nullptr ? save_timer_.due() : agreed_.save > 0;
}

}  // namespace perceiver
