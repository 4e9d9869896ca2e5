// Optimizers over flat buffers, and the decision whether to apply a step. Part of the interface in
// kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "perceiver/experimental/philox.h"

namespace perceiver::kernels {

/// The values that change from step to step and from update to update.
struct StepScalars {
  // Written by the host before a step.
  uint64_t step;      // keys the step's random numbers
  double loss_scale;  // d objective / d (sum of losses)
  double learning_rate;
  // Written by step_control.
  double update;          // number of the last update, from 1; 0: none yet
  double gradient_scale;  // multiplies every gradient (clipping)
  double average_decay;   // of the weights' moving average
  double gradient_norm;   // global, before clipping
  uint64_t finite;        // 0: losses or gradients are not finite, and no update is made
};

/// Decides on an update: finite iff the sum of squared gradients and the sum of losses are; then update += 1,
/// gradient_scale = min(1, clip_norm / norm) (1 if clip_norm is 0), average_decay = min(ema_decay, (1 +
/// update) / (10 + update)). The kernels below that take `scalars` do nothing unless scalars->finite.
struct StepControl {
  const double* sum_of_squares;
  const double* loss;
  double clip_norm, ema_decay;
  StepScalars* scalars;
};

/// A piece of one parameter in the flat buffers. A table of tiles covers all parameters in order, each by
/// successive tiles; it fixes the order of every sum, independent of the number of threads.
struct ParameterTile {
  int64_t begin;  // elements from the start of the flat buffers
  int64_t elements;
  int64_t parameter;    // index of the parameter, ascending from 0
  double weight_decay;  // 0 for parameters that do not decay
  bool layerwise;       // whether LAMB's trust ratio applies
};

/// Adam (Kingma and Ba 2015) with bias correction: p -= lr * m' / (sqrt(v') + epsilon). Weight decay is added
/// to the gradient, or if `decoupled`, p -= lr * decay * p (Loshchilov and Hutter 2019). Flat buffers of
/// `type`; moments of bf16 are rounded up or down at random, with the probabilities that make the expectation
/// exact: rounded to nearest, a second moment would stop changing (its updates are smaller than half a
/// unit). The random numbers depend on the update and the element alone.
struct Adam {
  DType type, moment_type;
  const ParameterTile* tiles;
  int64_t tile_count;
  void* parameters;
  const void* gradients;
  void* first_moment;
  void* second_moment;
  void* rounded = nullptr;    // bf16 copy of the parameters, updated with them
  int64_t first_element = 0;  // of the whole model's: where these buffers begin
  double beta1, beta2, epsilon;
  bool decoupled;
  const StepScalars* scalars;
};

/// Two numbers of 16 random bits for each of 4 successive elements: the low halves for the first moment.
constexpr PhiloxBlock rounding_bits(int64_t block, uint64_t update) {
  const auto index = static_cast<uint64_t>(block);
  return philox({static_cast<uint32_t>(index), static_cast<uint32_t>(update),
                 static_cast<uint32_t>(update >> 32) ^ (static_cast<uint32_t>(RandomPurpose::rounding) << 24),
                 static_cast<uint32_t>(index >> 32)},
                0, 0);
}

/// b = momentum * b + g, p -= lr * b, or with `nesterov` p -= lr * (g + momentum * b). Weight decay is added
/// to the gradient. `momentum_buffer` is null if momentum is 0.
struct Sgd {
  DType type;
  const ParameterTile* tiles;
  int64_t tile_count;
  void* parameters;
  const void* gradients;
  void* momentum_buffer = nullptr;
  double momentum;
  bool nesterov;
  const StepScalars* scalars;
};

/// LAMB (You et al. 2020): with u = Adam's direction + decay * p, p -= lr * |p| / |u| * u, with one pair of
/// norms per parameter (the ratio is 1 if either is 0, or not `layerwise`). `norms` holds 2 * tile_count.
struct Lamb {
  DType type;
  const ParameterTile* tiles;
  int64_t tile_count;
  void* parameters;
  const void* gradients;
  void* first_moment;
  void* second_moment;
  double beta1, beta2, epsilon;
  double* norms;
  const StepScalars* scalars;
};

/// One of Adafactor's parameters, as a matrix. Its second moment is `rows` values at row_moment and `columns`
/// at column_moment; if not `factored`, the whole second moment is at row_moment.
struct AdafactorParameter {
  int64_t begin;  // elements from the start of the flat buffers
  int64_t rows, columns;
  bool factored;
  int64_t row_moment;  // elements from the start of the moments
  int64_t column_moment;
  double weight_decay;
};

/// Adafactor (Shazeer and Stern 2018, algorithms 4 and 5) with an external learning rate: second moments
/// decay by 1 - update^-0.8, epsilon 1e-30, the update's root mean square is clipped to 1, no first moment.
/// Weight decay as in decoupled Adam.
struct Adafactor {
  DType type;
  const AdafactorParameter* table;
  int64_t parameter_count;
  void* parameters;
  const void* gradients;
  void* moments;
  const StepScalars* scalars;
};

/// average = d * average + (1 - d) * values, d = scalars->average_decay.
struct MovingAverage {
  DType type;
  int64_t elements;
  const void* values;
  void* average;
  const StepScalars* scalars;
};

PERCEIVER_KERNEL(step_control, StepControl)
PERCEIVER_KERNEL(adam, Adam)
PERCEIVER_KERNEL(sgd, Sgd)
PERCEIVER_KERNEL(lamb, Lamb)
PERCEIVER_KERNEL(adafactor, Adafactor)
PERCEIVER_KERNEL(moving_average, MovingAverage)

}  // namespace perceiver::kernels
