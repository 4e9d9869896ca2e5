// The paths of a configuration, when it is used from another folder than the one it was written for.
#pragma once

#include "perceiver/config.h"

namespace perceiver {

/// Makes the relative paths of `config` (data.train, data.validation, data.test, options that name a file)
/// absolute, from the current folder. A run stores its configuration like this, so that evaluation and
/// continuation find the data wherever they are started. Does not look whether the paths exist.
void absolute_paths(DataConfig& config);

}  // namespace perceiver
