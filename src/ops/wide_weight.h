// The weights of a linear layer for products of many rows.
#pragma once

#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

/// The weight [out, in]: the parameter, in its own type, or where that has no contents (a GPU with weights of
/// eight bits) the narrow weights times their scales, of `type`, in memory that lives as long as the result.
Tensor wide_weight(Tape& tape, const LinearParameters& parameters, DType type);

}  // namespace perceiver::ops
