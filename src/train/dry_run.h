// What a run would need, tried on the machine at hand: nothing is written.
#pragma once

#include <functional>

#include "train/run_report.h"

namespace perceiver {

struct DryRun {
  int64_t steps = 0;            ///< measured, after those that warm up
  double seconds_per_step = 0;  ///< mean
  int64_t device_bytes = 0;     ///< largest amount that tensors held on the device
  int64_t process_bytes = 0;    ///< largest amount of memory of this process; 0: unknown
};

/// Opens data, device and model as a run would and hands its header to `report`; then trains for a few
/// seconds on the run's own batches and measures. Throws `user` for what would stop the run at its start, a
/// `folder` that already holds one included, and `failure` if the memory is not enough. With several ranks
/// each calls it, and measures itself.
DryRun dry_run(const Config& config, const std::filesystem::path& folder,
               const std::function<void(const RunHeader&)>& report, World* world = nullptr);

/// "42 ms a step (mean of 20): 2970 steps take 2:05", and what ends the run sooner.
std::string duration_line(const DryRun& measured, const Config& config);
/// "50.1 MiB in tensors, 224 MiB in all".
std::string memory_line(const DryRun& measured);

}  // namespace perceiver
