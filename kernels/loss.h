// Cross-entropy, label smoothing and z-loss. Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

/// Softmax cross-entropy of logits [rows, vocabulary], `stride` elements from row to row, against targets
/// [rows] (0 = PAD: no loss), label smoothing and z-loss (MODEL.md section 4). Writes nll [rows] (nats, of
/// the true target), loss [rows] (with smoothing and z-loss), z [rows] (the z-loss term), correct [rows]; PAD
/// rows get 0. Where `gradient_scale` is not null, logits become d loss / d logits * *gradient_scale, and
/// what lies between the rows becomes 0.
struct CrossEntropy {
  DType type;
  int64_t rows, vocabulary, stride;
  void* logits;
  const int32_t* targets;
  double label_smoothing, z_loss;
  const double* gradient_scale;
  void* nll;  // accumulation type; null where not wanted, likewise the next three
  void* loss;
  void* z;
  uint8_t* correct;
};

/// totals[0..4] (f64) (+)= sum of loss, nll, z, correct, number of targets over `rows`; in a fixed order.
struct LossTotals {
  DType type;  // accumulation type of loss, nll, z
  int64_t rows;
  const void* loss;
  const void* nll;
  const void* z;
  const uint8_t* correct;
  const int32_t* targets;
  double* totals;
  bool accumulate;
};

PERCEIVER_KERNEL(cross_entropy, CrossEntropy)
PERCEIVER_KERNEL(loss_totals, LossTotals)

}  // namespace perceiver::kernels
