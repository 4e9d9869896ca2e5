// LayerNorm with the residual addition and dropout before it. Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

/// Dropout mask: element e of op `op` in step *step survives iff its Philox word is at least `threshold`,
/// and is then multiplied by `scale`. Element 0 of the tensor is element `first_element` of the whole batch.
struct DropoutMask {
  uint64_t seed = 0;
  const uint64_t* step = nullptr;  // null only where nothing is dropped
  uint32_t op = 0;
  uint32_t threshold = 0;  // 0: no dropout
  double scale = 1;
  int64_t first_element = 0;
};

/// sum = residual + dropout(branch) (either may be null, not both; `sum` null when branch is); y =
/// LayerNorm(sum) when `y` is not null. LayerNorm over the last axis with eps 1e-5; mean, rstd [rows] in the
/// accumulation type.
struct ResidualLayerNorm {
  DType type;
  int64_t rows, columns;
  const void* residual;
  const void* branch;
  DropoutMask mask;
  void* sum;
  const void* scale;
  const void* offset;
  void* y;
  void* mean;
  void* rstd;
};

/// d_x = LayerNormBackward(d_y) + d_sum (null: none), (+)= into d_x; d_scale, d_offset (+)= (null: not
/// wanted). d_branch = dropout'(d_x) when not null (only without accumulate_x).
struct ResidualLayerNormBackward {
  DType type;
  int64_t rows, columns;
  const void* x;  // the normalised input: `sum`, or `residual` where there was no branch
  const void* scale;
  const void* mean;
  const void* rstd;
  const void* d_y;
  const void* d_sum;
  void* d_x;
  bool accumulate_x;
  DropoutMask mask;
  void* d_branch;
  void* d_scale;
  void* d_offset;
  bool accumulate_scale;
  bool accumulate_offset;
};

/// y = dropout(x), elementwise over `elements`; y may be x.
struct Dropout {
  DType type;
  int64_t elements;
  const void* x;
  DropoutMask mask;
  void* y;
  bool accumulate;
};

PERCEIVER_KERNEL(residual_layer_norm, ResidualLayerNorm)
PERCEIVER_KERNEL(residual_layer_norm_backward, ResidualLayerNormBackward)
PERCEIVER_KERNEL(dropout, Dropout)

}  // namespace perceiver::kernels
