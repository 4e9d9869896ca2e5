// A linear layer whose result is queries, keys or values, with the rotation of the former in the same launch.
#pragma once

#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

/// What is rotated of a layer's result: its first columns are `parts` parts of `part_columns`, such as
/// queries and keys, of each of which the first table.heads heads of `head_dim` channels are.
struct LinearRotation {
  RotaryTable table;  ///< without bands or heads: nothing is rotated
  Tensor positions;   ///< i32 [rows]
  int64_t head_dim = 0, parts = 1, part_columns = 0;
  /// Whether what reads the result gives the gradient of the unrotated one (AttentionInputs::rotated).
  bool reader_rotates_back = false;
};

/// linear(x, parameters), then `rotary` of each part, with the same bits.
Variable linear_rotary(Tape& tape, const Variable& x, const LinearParameters& parameters,
                       const LinearRotation& rotation);

}  // namespace perceiver::ops
