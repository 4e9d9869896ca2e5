// The rotation of heads in place, for the operations that use it.
#pragma once

#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

/// Throws `user` for heads, a table or positions that do not fit `x`.
void check_rotary(const Tape& tape, const Tensor& x, int64_t column, int64_t head_dim,
                  const RotaryTable& table, const Tensor& positions);
/// Rotates `x`; `direction` is -1 for the inverse.
void launch_rotary(Tape& tape, const Tensor& x, int64_t column, int64_t head_dim, const RotaryTable& table,
                   const Tensor& positions, int direction = 1);

}  // namespace perceiver::ops
