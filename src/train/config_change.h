// Which configuration keys may differ between a run and its continuation.
#pragma once

#include <string>

#include "perceiver/config.h"

namespace perceiver {

/// Throws `user`, naming the key and both values, if `wanted` would make it another run: changes in model,
/// data, loss, optimizer, and of train the batch, the micro-batches, the seed and the moving average. Device
/// and precision (which depends on it where it is `auto`), threads, schedule, number of steps, intervals,
/// limits, recomputation, evaluation and checkpoint keys may change, and with `other_paths` (to the same
/// data, or to data that were accepted) the paths of the data. `run` names the run in the error.
void check_config_change(Config before, const Config& wanted, const std::string& run,
                         bool other_paths = false);

}  // namespace perceiver
