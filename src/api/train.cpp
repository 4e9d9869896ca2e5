#include "perceiver/train.h"

#include <utility>

#include "api/model_state.h"
#include "api/training_run.h"
#include "base/check.h"
#include "base/worker_pool.h"

namespace perceiver {
namespace {

/// A thread keeps the workers of the context that it used last, for its next loop. A caller's thread must
/// not: they are to end with the run.
struct ReleasesWorkers {
  ~ReleasesWorkers() { WorkerPool::use(nullptr); }
};

/// The caller may keep the run for its model, while another one goes on in its folder.
struct ClosesTrainer {
  ~ClosesTrainer() { trainer.close(); }
  Trainer& trainer;
};

TrainerOptions trainer_options(const Config& config, TrainOptions options, World* world,
                               const std::atomic<bool>* stop) {
  TrainerOptions all;
  static_cast<TrainOptions&>(all) = std::move(options);
  all.stop = stop;
  all.world = world;
  all.validate = make_validation(
      config, [stop, world] { return *stop || (world != nullptr && world->stop_requested()); });
  return all;
}

}  // namespace

TrainingRun::State::State(Config config, TrainOptions options, World* world, std::atomic<bool>* outer_stop)
    : stop(outer_stop != nullptr ? outer_stop : &own_stop),
      trainer(config, trainer_options(config, std::move(options), world, stop)) {}

TrainingRun::TrainingRun(Config config, TrainOptions options) {
  const ReleasesWorkers releases;
  state_ = std::make_unique<State>(std::move(config), std::move(options), nullptr, nullptr);
}
TrainingRun::TrainingRun(std::unique_ptr<State> state) : state_(std::move(state)) {}
TrainingRun::TrainingRun(TrainingRun&&) noexcept = default;
TrainingRun& TrainingRun::operator=(TrainingRun&&) noexcept = default;
TrainingRun::~TrainingRun() = default;

TrainResult TrainingRun::run() {
  if (std::exchange(state_->ran, true))
    throw_user("this training run has run; open another one, with TrainOptions::resume to continue it");
  const ReleasesWorkers releases;
  const ClosesTrainer closes{state_->trainer};
  return state_->trainer.run();
}

void TrainingRun::stop() noexcept {
  *state_->stop = true;
}

const Config& TrainingRun::config() const {
  return state_->trainer.config();
}

Model TrainingRun::model() const {
  const ReleasesWorkers releases;
  return Model(Model::State::of(state_->trainer.copy_of_model(), {}));
}

TrainingRun TrainingAccess::open(Config config, TrainOptions options, World* world, std::atomic<bool>& stop) {
  return TrainingRun(
      std::make_unique<TrainingRun::State>(std::move(config), std::move(options), world, &stop));
}

}  // namespace perceiver
