// What the program adds to a TrainingRun: the other ranks, and a signal handler's request to stop.
#pragma once

#include <atomic>
#include <memory>

#include "distributed/world.h"
#include "perceiver/train.h"
#include "train/trainer.h"

namespace perceiver {

struct TrainingRun::State {
  State(Config config, TrainOptions options, World* world, std::atomic<bool>* outer_stop);

  std::atomic<bool> own_stop = false;
  std::atomic<bool>* stop;  ///< own_stop, or the program's
  Trainer trainer;
  bool ran = false;
};

struct TrainingAccess {
  /// Every rank of `world` opens the same run; `stop`, which a signal handler may set, takes the place of the
  /// run's own. Both must outlive it; `world` may be null.
  static TrainingRun open(Config config, TrainOptions options, World* world, std::atomic<bool>& stop);
};

}  // namespace perceiver
