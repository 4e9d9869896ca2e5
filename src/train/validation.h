// Validation during a training run.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "model/perceiver_ar.h"
#include "perceiver/config.h"
#include "perceiver/train_report.h"
#include "train/learner.h"

namespace perceiver {

struct ValidationScore {
  double loss = 0;                      ///< nats per target
  std::optional<double> bits_per_unit;  ///< where the data have a unit
  std::string unit;                     ///< e.g. "byte"
  std::vector<PositionLoss> by_position = {};
};

/// Scores the validation split; nothing if it was cancelled. Not called where the data have no such split.
/// Collective over the ranks, which all get the same score.
using Validate =
    std::function<std::optional<ValidationScore>(const PerceiverAR&, const Dataset&, const LearnerRanks&)>;

/// Validation as section `eval` of the configuration asks for. `cancelled` (optional) is called after each
/// batch of windows, by the thread that validates; once it returns true, validation gives up.
Validate make_validation(const Config& config, std::function<bool()> cancelled);

}  // namespace perceiver
