// Cross-entropy, label smoothing and z-loss. Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

/// Softmax cross-entropy of logits [rows, vocabulary] with row stride `stride` against targets [rows] (0 =
/// PAD: no loss), with label smoothing and z-loss (docs/model.md, "Training"). Writes nll [rows] (nats, of
/// the true target), loss [rows] (with smoothing and z-loss), z [rows] (the z-loss term), correct [rows]; PAD
/// rows get 0. With `gradient_scale`, logits become d loss / d logits * *gradient_scale, and the padding
/// between rows becomes 0.
struct CrossEntropy {
  DType type;
  int64_t rows, vocabulary, stride;
  void* logits;
  const int32_t* targets;
  double label_smoothing, z_loss;
  const double* gradient_scale = nullptr;
  void* nll = nullptr;  // accumulation type; null: not wanted; likewise the next three
  void* loss = nullptr;
  void* z = nullptr;
  uint8_t* correct = nullptr;
};

/// totals[0..4] (f64) (+)= sums over `rows` of loss, nll, z, correct, and the number of targets, in a fixed
/// order.
struct LossTotals {
  DType type;  // accumulation type of loss, nll, z
  int64_t rows;
  const void* loss;
  const void* nll;
  const void* z;
  const uint8_t* correct;
  const int32_t* targets;
  double* totals;
  bool accumulate = false;
};

PERCEIVER_KERNEL(cross_entropy, CrossEntropy)
PERCEIVER_KERNEL(loss_totals, LossTotals)

}  // namespace perceiver::kernels
