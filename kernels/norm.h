// LayerNorm fused with the residual addition and dropout before it. Part of the interface in
// kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

/// Dropout mask: element e of operation `op` in step *step is kept iff its Philox word is at least
/// `threshold`, and is then multiplied by `scale`. Element 0 of the tensor is element `first_element` of the
/// whole batch.
struct DropoutMask {
  uint64_t seed = 0;
  const uint64_t* step = nullptr;  // null only if nothing is dropped
  uint32_t op = 0;
  uint32_t threshold = 0;  // 0: no dropout
  double scale = 1;
  int64_t first_element = 0;
};

/// sum = residual + dropout(branch) (either may be null, not both; `sum` is null if branch is); y =
/// LayerNorm(sum) unless `y` is null. LayerNorm over the last axis with eps 1e-5; mean, rstd [rows] in the
/// accumulation type.
struct ResidualLayerNorm {
  DType type;
  int64_t rows, columns;
  const void* residual = nullptr;
  const void* branch = nullptr;
  DropoutMask mask = {};
  void* sum = nullptr;
  const void* scale = nullptr;  // this and the rest: null without `y`
  const void* offset = nullptr;
  void* y = nullptr;
  void* mean = nullptr;
  void* rstd = nullptr;
};

/// d_x (+)= LayerNormBackward(d_y) + d_sum (null: none); d_scale, d_offset (+)= their gradients (null: not
/// wanted). d_branch = dropout'(d_x) unless null (only without accumulate_x). branch_sums [columns] = the
/// column sums of d_branch, or where that is null, of d_x (null: not wanted). y = LayerNorm(x) once more, bit
/// for bit (null: not wanted).
struct ResidualLayerNormBackward {
  DType type;
  int64_t rows, columns;
  const void* x;  // the input of LayerNorm: `sum`, or `residual` if there was no branch
  const void* scale;
  const void* mean;
  const void* rstd;
  const void* d_y;
  const void* d_sum = nullptr;
  void* d_x;
  bool accumulate_x = false;
  DropoutMask mask = {};
  void* d_branch = nullptr;
  void* d_scale = nullptr;
  void* d_offset = nullptr;
  bool accumulate_scale = false;
  bool accumulate_offset = false;
  void* branch_sums = nullptr;
  const void* offset = nullptr;  // with `y`
  void* y = nullptr;
};

/// y (+)= dropout(x), elementwise; y may be x.
struct Dropout {
  DType type;
  int64_t elements;
  const void* x;
  DropoutMask mask;
  void* y;
  bool accumulate = false;
};

PERCEIVER_KERNEL(residual_layer_norm, ResidualLayerNorm)
PERCEIVER_KERNEL(residual_layer_norm_backward, ResidualLayerNormBackward)
PERCEIVER_KERNEL(dropout, Dropout)

}  // namespace perceiver::kernels
