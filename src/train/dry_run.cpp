#include "train/dry_run.h"

#include <fmt/format.h>

#include "config/duration.h"
#include "data/batches/loader.h"
#include "train/connect_ranks.h"
#include "train/initialize.h"
#include "train/open_run.h"
#include "train/progress.h"
#include "train/run_folder.h"
#include "train/step_clock.h"

namespace perceiver {
namespace {

constexpr int64_t kWarmUp = 3;  // a GPU fills its memory cache, then records, then replays
constexpr int64_t kMostSteps = 50;
constexpr double kSeconds = 3;

/// Trains as a run does: as many steps in flight as the learner allows.
class Steps {
 public:
  Steps(const Config& config, const Dataset& data, Learner& learner)
      : loader_(data, Split::train, config.model, learner.share(), config.train.seed, 0, config.train.crops),
        learner_(learner) {}

  void finish_one() {
    while (learner_.in_flight() < learner_.capacity()) {
      loader_.next(batch_);
      learner_.start(started_++, batch_);
    }
    learner_.finish();
  }

 private:
  Loader loader_;
  Learner& learner_;
  Batch batch_;
  int64_t started_ = 0;
};

/// Every rank makes as many steps, so rank 0 says when it is enough.
DryRun measure(Steps& steps, World* world) {
  for (int64_t i = 0; i < kWarmUp; ++i) steps.finish_one();
  DryRun measured;
  const Stopwatch watch;
  bool more = true;
  while (more) {
    steps.finish_one();
    ++measured.steps;
    more = measured.steps < kMostSteps && watch.seconds() < kSeconds;
    if (world != nullptr) more = world->from_leader(more ? "more" : "", "a dry run") == "more";
  }
  measured.seconds_per_step = watch.seconds() / static_cast<double>(measured.steps);
  return measured;
}

std::string seconds_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.3g} s", seconds);
  return fmt::format("{:.3g} ms", 1e3 * seconds);
}

}  // namespace

DryRun dry_run(const Config& given, const std::filesystem::path& folder,
               const std::function<void(const RunHeader&)>& report, World* world) {
  Config config = resolved(given);
  require_no_run(folder);
  const std::shared_ptr<DeviceContext> context = open_device(config, world);
  const std::unique_ptr<Dataset> data = open_fitting(config);
  const int64_t before = resident_bytes();
  const std::unique_ptr<PerceiverAR> model = make_model(config, context);
  model->parameters().initialize(config.train.seed);
  load_initial_weights(config.train, *data, *model);  // throws for what does not fit
  const LearnerRanks ranks = connect_ranks(world, config, *context);
  Learner learner(config, *model, ranks);
  RunHeader header = make_header(config, *data, record_of(*data), *model, learner, before);
  if (ranks.all) header.ranks = ranks.all->size(), header.communicator = ranks.all->name();
  report(header);
  Steps steps(config, *data, learner);
  DryRun measured = measure(steps, world);
  measured.device_bytes = context->statistics().peak_bytes;
  measured.process_bytes = peak_resident_bytes();
  return measured;
}

std::string duration_line(const DryRun& measured, const Config& config) {
  const double step = measured.seconds_per_step, until = config.schedule.until;
  const double seconds = until > 0 ? until : step * static_cast<double>(config.train.steps);
  std::string line = fmt::format("{} a step (mean of {}): ", seconds_text(step), measured.steps);
  line += until > 0
              ? fmt::format("about {:.0f} steps in the {} of schedule.until, less what validations take",
                            until / step, format_duration(until))
              : fmt::format("{} steps take {}, and validations come on top", config.train.steps,
                            duration_text(seconds));
  if (const double most = 60 * config.train.max_minutes; most > 0 && seconds > most)
    line += fmt::format("; train.max_minutes ends it after {}, at about step {:.0f}", duration_text(most),
                        most / step);
  return line;
}

std::string memory_line(const DryRun& measured) {
  std::string line = fmt::format("{} in tensors", bytes_text(measured.device_bytes));
  if (measured.process_bytes > 0)
    line += fmt::format(", {} of the process", bytes_text(measured.process_bytes));
  return line;
}

}  // namespace perceiver
