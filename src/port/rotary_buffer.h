// The rotary frequencies that PyTorch implementations store beside the parameters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "port/dialect.h"

namespace perceiver {

/// 10000^(-2t/width) for t < ceil(width / 2), in float32 arithmetic as they compute it.
std::vector<double> rotary_frequencies(int64_t width);

/// Throws `user` unless the tensor holds these frequencies, up to rounding.
void check_rotary_frequencies(const ModelTensors& tensors, const std::string& name, int64_t width);

/// The frequencies as a tensor of that name.
DerivedTensor frequency_tensor(const std::string& name, int64_t width);

}  // namespace perceiver
