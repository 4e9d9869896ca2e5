// What a run and its dry run open first.
#pragma once

#include <memory>

#include "data/dataset.h"
#include "distributed/world.h"
#include "model/perceiver_ar.h"
#include "perceiver/config.h"

namespace perceiver {

/// The configuration with its automatic values and absolute paths. Throws `user` for one that contradicts
/// itself.
Config resolved(Config config);

/// The device of the configuration, at its precision: of several GPUs the one of that index, or with several
/// ranks, the rank's own. `world` may be null.
std::shared_ptr<DeviceContext> open_device(const Config& config, const World* world = nullptr, int index = 0);

/// The data, which decides what model.vocabulary: auto is: those of the configuration, or `source` if that is
/// not null; then section data of the configuration says of what kind they are. Throws `user` if the model
/// cannot be trained on it.
std::unique_ptr<Dataset> open_fitting(Config& config, std::shared_ptr<const DataSource> source = {});

/// The model on that device, without values.
std::unique_ptr<PerceiverAR> make_model(const Config& config, std::shared_ptr<DeviceContext> context);

}  // namespace perceiver
