// Matrix products of generation, where rows are sequences.
#pragma once

#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

/// out = x · weightᵀ + bias for few rows, batch-invariant, with the narrow weights if there are any. Not
/// recorded.
void skinny_gemm(Tape& tape, const Tensor& x, const LinearParameters& parameters, const Tensor& out);

}  // namespace perceiver::ops
