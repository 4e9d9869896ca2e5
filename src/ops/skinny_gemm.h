// Matrix products of generation, where rows are sequences.
#pragma once

#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

/// What a skinny GEMM reads: the narrow weights if there are any, but not those of e4m3 on the CPU.
const Tensor& skinny_weight(const LinearParameters& parameters);

/// out = x · weightᵀ + bias for few rows, batch-invariant. Not recorded.
void skinny_gemm(Tape& tape, const Tensor& x, const LinearParameters& parameters, const Tensor& out);

}  // namespace perceiver::ops
