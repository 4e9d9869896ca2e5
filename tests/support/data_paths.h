// Data configurations of given files.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "perceiver/config.h"

namespace perceiver {

/// `validation` and `test`: shares of `train`.
inline DataConfig paths(std::vector<std::string> train, double validation = 0, double test = 0) {
  DataConfig config;
  config.train = std::move(train);
  config.validation_fraction = validation;
  config.test_fraction = test;
  return config;
}

}  // namespace perceiver
