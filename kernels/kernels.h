// The kernels' interface: one plain argument struct and one function per kernel, the same for every backend.
// Pointers, sizes and strides only, never a Tensor, so that a kernel can be read, tested and timed alone. A
// backend defines every function in its own namespace; one that it lacks is a link error. Every pointer is to
// the device's memory, results and scalars included, so that a sequence of launches depends on nothing that
// the host would have to wait for, and can be recorded once and replayed (a CUDA graph).
//
// `type` is the element type T of the activations and weights; statistics, log-sum-exp, losses and parameter
// gradients are in its accumulation type (f32, or f64 for f64). Strides and leading dimensions count
// elements. A `bool accumulate` adds to the target instead of overwriting it.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/launch.h"
#include "kernels/generation.h"
#include "perceiver/config.h"

namespace perceiver::kernels {

using perceiver::Launch;

/// C [m, n] = op(A) [m, k] · op(B) [k, n] + bias [n], row-major. C has `out_type`, A, B and bias `type`; bias
/// is null for none and only without accumulate.
struct Gemm {
  DType type, out_type;
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb;
  void* c;
  int64_t ldc;
  bool accumulate;
  const void* bias = nullptr;
};

/// Whether backward reads the activation's result instead of its argument: these two tell the derivative from
/// it as exactly, and the argument need not be kept.
constexpr bool derives_from_output(Activation activation) {
  return activation == Activation::relu || activation == Activation::squared_relu;
}

/// pre [rows, columns] += bias in place; out = activation(pre). `bias` may be null; `out` is null for
/// identity; it may be `pre` where there is no bias.
struct BiasActivation {
  DType type;
  int64_t rows, columns;
  Activation activation;
  void* pre;
  const void* bias;
  void* out;
};

/// d_pre = d_out * activation' (d_pre may be d_out; untouched for identity); d_bias (+)= column sums of
/// d_pre.
struct BiasActivationBackward {
  DType type;
  int64_t rows, columns;
  Activation activation;
  const void* kept;  // derives_from_output: activation(pre), else pre; null for identity
  const void* d_out;
  void* d_pre;   // null for identity
  void* d_bias;  // null: not wanted
  bool accumulate_bias;
  int64_t stride = 0;  // identity: elements between rows of d_out, those beyond `columns` finite; 0: columns
};

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

inline constexpr int kMaxTables = 9;  // tokens and up to eight axes of positions

/// out [rows, columns] = sum over tables t of table_t[ids_t[row * id_stride_t]].
struct Embedding {
  DType type;
  int64_t rows, columns;
  int tables;
  const void* table[kMaxTables];
  const int32_t* ids[kMaxTables];
  int64_t id_stride[kMaxTables];
  void* out;
};

/// d_table [table_rows, columns] (+)= sum of the rows of d_out by id, in a fixed order. `scratch` holds
/// table_rows + 1 + rows int32.
struct EmbeddingBackward {
  DType type;
  int64_t rows, columns, table_rows;
  const int32_t* ids;
  int64_t id_stride;
  const void* d_out;
  void* d_table;
  bool accumulate;
  int32_t* scratch;
};

/// For each row, rows of tables that are to be summed: row r takes table_t[ids_t[r * id_stride_t]] of each.
struct TableRows {
  int tables = 0;
  const void* table[kMaxTables] = {};
  const int32_t* ids[kMaxTables] = {};
  int64_t id_stride[kMaxTables] = {};
};

/// What the kernel `rotary` does to rows, as part of another kernel; none where `bands` is 0.
struct Rotation {
  int64_t heads = 0, head_dim = 0, bands = 0;
  const int32_t* positions = nullptr;  // [rows]
  const void* cosine = nullptr;        // [positions, bands], accumulation type
  const void* sine = nullptr;
};

/// Keys and values from projected tables (docs/projection.md): out [rows, columns] = rotated(rstd[row] * sum of
/// table rows + offset), rounded once. Tables, rstd (null: 1) and offset (null: 0) are in the accumulation type.
/// `examples` divides the rows into as many stretches, whose rows of equal place tend to share table rows.
struct ProjectedRows {
  DType type;
  int64_t rows, columns, examples;
  TableRows terms;
  const void* rstd;    // [rows]
  const void* offset;  // [columns]
  Rotation rotation;
  void* out;
};

/// d_table [table_rows, columns] (+)= sum by id of rstd[row] * unrotated(d_out[row]), in a fixed order, for one of
/// the tables. What d_out holds may be lost where there is a rotation. `scratch` as for EmbeddingBackward.
struct ProjectedRowsBackward {
  DType type;
  int64_t rows, columns, table_rows;
  const int32_t* ids;
  int64_t id_stride;
  const void* rstd;
  Rotation rotation;
  void* d_out;
  void* d_table;
  bool accumulate;
  int32_t* scratch;
};

/// d_rstd [rows] (+)= d_out[row] · sum of table rows; d_offset [columns] (+)= column sums of d_out (null: not
/// wanted). Only without a rotation.
struct ProjectedScaleBackward {
  DType type;
  int64_t rows, columns, examples;
  TableRows terms;
  const void* d_out;
  void* d_rstd;
  bool accumulate_rstd;
  void* d_offset;
  bool accumulate_offset;
};

/// rstd[row] = 1 / sqrt(mean of squares of the sum of table rows + 1e-5): LayerNorm's factor, where each table's
/// rows have mean 0.
struct SumRstd {
  DType type;
  int64_t rows, columns, examples;
  TableRows terms;
  void* rstd;
};

/// d_table [table_rows, columns] of table number `table` (+)= sum by id of -rstd^3 * d_rstd / columns * (the sum of
/// table rows), in a fixed order. `scratch` as for EmbeddingBackward.
struct SumRstdBackward {
  SumRstd forward;
  const void* d_rstd;
  int table;
  int64_t table_rows;
  void* d_table;
  bool accumulate;
  int32_t* scratch;
};

/// y [rows, columns] (+)= x less its rows' means; its own backward. y may be x (without accumulate).
struct CenterRows {
  DType type;
  int64_t rows, columns;
  const void* x;
  void* y;
  bool accumulate;
};

/// y [rows, columns] = x, column c times scale[c].
struct ScaleColumns {
  DType type;
  int64_t rows, columns;
  const void* x;
  const void* scale;
  void* y;
};

/// d_x (+)= d_y times scale; d_scale (+)= column sums of d_y * x. Either may be null.
struct ScaleColumnsBackward {
  DType type;
  int64_t rows, columns;
  const void* x;
  const void* scale;
  const void* d_y;
  void* d_x;
  bool accumulate_x;
  void* d_scale;
  bool accumulate_scale;
};

/// Rotates, in place, the first 2 * bands channels of the first `heads` heads of every row by its position's
/// angles, in interleaved pairs. Row r starts at x + r * row_stride, head h at + h * head_dim. Tables are
/// [positions, bands] in the accumulation type, for |position|; `direction` is +1, or -1 for the inverse.
struct Rotary {
  DType type;
  int64_t rows, row_stride, heads, head_dim, bands;
  void* x;
  const int32_t* positions;  // [rows]
  const void* cosine;
  const void* sine;
  int direction;
};

/// Which implementation of attention runs on CUDA: `portable` needs bf16 and head widths that are multiples of
/// 16 up to 128, `hopper` bf16, head widths 64 or 128 and compute capability 9.0; `reference` takes everything.
/// The CPU has one only.
enum class AttentionKernel : uint8_t { automatic, reference, portable, hopper };

/// Scaled dot-product attention, scale 1/sqrt(head_dim), softmax in the accumulation type. Query row i of
/// example b sees the keys n with first[b] <= n < limit[b, i] and key_mask[b, n] != 0, and (where
/// `self_visible`) always key i itself if it lies in that range. limit must not decrease with i. Rows that
/// see nothing give 0, and lse = +inf. Row i of example b of q starts at q + (b * queries + i) * q_stride,
/// head h at + h * head_dim; likewise k, v, out.
struct Attention {
  DType type;
  int64_t batch, heads, queries, keys, head_dim;
  const void* q;
  int64_t q_stride;
  const void* k;
  const void* v;
  int64_t kv_stride;
  const int32_t* first;     // [batch], null: 0
  const int32_t* limit;     // [batch, queries]
  const uint8_t* key_mask;  // [batch, keys], null: all visible
  bool self_visible;
  void* out;
  int64_t out_stride;
  void* lse;  // [batch, heads, queries]
  AttentionKernel kernel = AttentionKernel::automatic;
};

/// Gradients of the above; all overwritten.
struct AttentionBackward {
  Attention forward;
  const void* d_out;  // stride of `out`
  void* d_q;          // stride of q
  void* d_k;
  void* d_v;  // stride of k, v
  /// CUDA: attention_backward_workspace() bytes, aligned to 256; null where that is 0.
  void* scratch = nullptr;
};

/// Softmax cross-entropy of logits [rows, vocabulary], `stride` elements from row to row, against targets [rows] (0 = PAD: no loss), label
/// smoothing and z-loss (MODEL.md section 4). Writes nll [rows] (nats, of the true target), loss [rows] (with
/// smoothing and z-loss), z [rows] (the z-loss term), correct [rows]; PAD rows get 0. Where `gradient_scale` is
/// not null, logits become d loss / d logits * *gradient_scale, and what lies between the rows becomes 0.
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

/// y [rows * copies, columns]: row r * copies + c = x[r] + encoding[c] (MODEL.md section 2, latents per
/// position).
struct RepeatRows {
  DType type;
  int64_t rows, copies, columns;
  const void* x;
  const void* encoding;
  void* y;
};

/// d_x (+)= sums over copies; d_encoding (+)= sums over rows. Either may be null.
struct RepeatRowsBackward {
  DType type;
  int64_t rows, copies, columns;
  const void* d_y;
  void* d_x;
  bool accumulate_x;
  void* d_encoding;
  bool accumulate_encoding;
};

/// y [rows, columns] = mean over the `copies` rows of each group of x [rows * copies, columns].
struct AverageRows {
  DType type;
  int64_t rows, copies, columns;
  const void* x;
  void* y;
};

/// d_x [rows * copies, columns] (+)= d_y / copies.
struct AverageRowsBackward {
  DType type;
  int64_t rows, copies, columns;
  const void* d_y;
  void* d_x;
  bool accumulate;
};

/// target += source, elementwise.
struct Add {
  DType type;
  int64_t elements;
  const void* source;
  void* target;
};

/// *count = number of NaN and infinite elements.
struct CountNonFinite {
  DType type;
  int64_t elements;
  const void* x;
  int64_t* count;
};

/// *sum = sum of squares in f64, in a fixed order.
struct SumOfSquares {
  DType type;
  int64_t elements;
  const void* x;
  double* sum;
};

/// y = x, elementwise, rounded to `to`; y and x do not overlap.
struct Cast {
  DType from, to;
  int64_t elements;
  const void* x;
  void* y;
};

/// What differs from step to step and from update to update.
struct StepScalars {
  // Written by the host before a step.
  uint64_t step;          // key of the step's random numbers
  double loss_scale;      // d objective / d (sum of losses)
  double learning_rate;
  // Written by step_control.
  double update;          // number of the last update, from 1; 0: none yet
  double gradient_scale;  // every gradient is multiplied by this first (clipping)
  double average_decay;   // of the weights' moving average
  double gradient_norm;   // global, before clipping
  uint64_t finite;        // 0: losses or gradients are not, and no update takes place
};

/// Decides on an update: finite iff the sum of squared gradients and the sum of losses are; then update += 1, gradient_scale = min(1, clip_norm / norm) (1 where clip_norm
/// is 0), average_decay = min(ema_decay, (1 + update) / (10 + update)). Kernels that take `scalars` below do
/// nothing unless scalars->finite.
struct StepControl {
  const double* sum_of_squares;
  const double* loss;
  double clip_norm, ema_decay;
  StepScalars* scalars;
};

/// A piece of one parameter in the flat buffers. A table of tiles covers all parameters in order, each
/// parameter by successive tiles; it decides the order of every sum, whatever the number of threads.
struct ParameterTile {
  int64_t begin;  // elements from the start of the flat buffers
  int64_t elements;
  int64_t parameter;    // its number, from 0, rising
  double weight_decay;  // 0 for parameters that do not decay
  bool layerwise;       // whether lamb's trust ratio applies
};

/// Adam (Kingma and Ba 2015) with bias correction: p -= lr * m' / (sqrt(v') + epsilon). Weight decay is added
/// to the gradient, or where `decoupled` p -= lr * decay * p (Loshchilov and Hutter 2019). Flat buffers of
/// `type`.
struct Adam {
  DType type;
  const ParameterTile* tiles;
  int64_t tile_count;
  void* parameters;
  const void* gradients;
  void* first_moment;
  void* second_moment;
  double beta1, beta2, epsilon;
  bool decoupled;
  const StepScalars* scalars;
};

/// b = momentum * b + g, p -= lr * b, or with `nesterov` p -= lr * (g + momentum * b). Weight decay is added
/// to the gradient. `momentum_buffer` is null where momentum is 0.
struct Sgd {
  DType type;
  const ParameterTile* tiles;
  int64_t tile_count;
  void* parameters;
  const void* gradients;
  void* momentum_buffer;
  double momentum;
  bool nesterov;
  const StepScalars* scalars;
};

/// LAMB (You et al. 2020): with u = Adam's direction + decay * p, p -= lr * |p| / |u| * u, the norms taken
/// over each parameter (the ratio is 1 where either is 0, or not `layerwise`). `norms` holds 2 * tile_count.
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

/// One parameter of Adafactor as a matrix. Its moments are `rows` values at row_moment and `columns` at
/// column_moment; where not `factored`, a whole second moment at row_moment.
struct AdafactorParameter {
  int64_t begin;  // elements from the start of the flat buffers
  int64_t rows, columns;
  bool factored;
  int64_t row_moment;  // elements from the start of the moments
  int64_t column_moment;
  double weight_decay;
};

/// Adafactor (Shazeer and Stern 2018, algorithms 4 and 5) with the learning rate given from outside: second
/// moments decay by 1 - update^-0.8, epsilon 1e-30, the update's root mean square is clipped to 1, no first
/// moment. Weight decay as for a decoupled Adam.
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

/// Exchanges the contents of two arrays that do not overlap.
struct Exchange {
  DType type;
  int64_t elements;
  void* a;
  void* b;
};

#define PERCEIVER_FOR_EACH_KERNEL(K)                         \
  K(gemm, Gemm)                                              \
  K(bias_activation, BiasActivation)                         \
  K(bias_activation_backward, BiasActivationBackward)        \
  K(residual_layer_norm, ResidualLayerNorm)                  \
  K(residual_layer_norm_backward, ResidualLayerNormBackward) \
  K(dropout, Dropout)                                        \
  K(embedding, Embedding)                                    \
  K(embedding_backward, EmbeddingBackward)                   \
  K(projected_rows, ProjectedRows)                           \
  K(projected_rows_backward, ProjectedRowsBackward)          \
  K(projected_scale_backward, ProjectedScaleBackward)        \
  K(sum_rstd, SumRstd)                                       \
  K(sum_rstd_backward, SumRstdBackward)                      \
  K(center_rows, CenterRows)                                 \
  K(scale_columns, ScaleColumns)                             \
  K(scale_columns_backward, ScaleColumnsBackward)            \
  K(rotary, Rotary)                                          \
  K(attention, Attention)                                    \
  K(attention_backward, AttentionBackward)                   \
  K(cross_entropy, CrossEntropy)                             \
  K(loss_totals, LossTotals)                                 \
  K(repeat_rows, RepeatRows)                                 \
  K(repeat_rows_backward, RepeatRowsBackward)                \
  K(average_rows, AverageRows)                               \
  K(average_rows_backward, AverageRowsBackward)              \
  K(add, Add)                                                \
  K(count_non_finite, CountNonFinite)                        \
  K(sum_of_squares, SumOfSquares)                            \
  K(cast, Cast)                                              \
  K(step_control, StepControl)                               \
  K(adam, Adam)                                              \
  K(sgd, Sgd)                                                \
  K(lamb, Lamb)                                              \
  K(adafactor, Adafactor)                                    \
  K(moving_average, MovingAverage)                           \
  K(exchange, Exchange)                                      \
  K(row_products, RowProducts)                               \
  K(write_rows, WriteRows)                                   \
  K(ring_attention, RingAttention)                           \
  K(sample, Sample)

// Declares each kernel of each backend, and the function that calls the one of the launch's device.
#ifdef PERCEIVER_CUDA
#define PERCEIVER_DECLARE(function, Arguments)                                       \
  namespace cpu {                                                                    \
  void function(const Arguments& arguments);                                         \
  }                                                                                  \
  namespace cuda {                                                                   \
  void function(const Launch& launch, const Arguments& arguments);                   \
  }                                                                                  \
  inline void function(const Launch& launch, const Arguments& arguments) {           \
    if (launch.device.kind == DeviceKind::cuda) return cuda::function(launch, arguments); \
    cpu::function(arguments);                                                        \
  }
#else
#define PERCEIVER_DECLARE(function, Arguments)                      \
  namespace cpu {                                                   \
  void function(const Arguments& arguments);                        \
  }                                                                 \
  inline void function(const Launch&, const Arguments& arguments) { \
    cpu::function(arguments);                                       \
  }
#endif
PERCEIVER_FOR_EACH_KERNEL(PERCEIVER_DECLARE)
#undef PERCEIVER_DECLARE

/// Bytes that AttentionBackward::scratch must hold; 0 where the launch's workspace (64 MiB) is enough.
#ifdef PERCEIVER_CUDA
namespace cuda {
int64_t attention_backward_workspace(const AttentionBackward& arguments, int processors);
}
inline int64_t attention_backward_workspace(const Launch& launch, const AttentionBackward& arguments) {
  if (launch.device.kind != DeviceKind::cuda) return 0;
  return cuda::attention_backward_workspace(arguments, launch.processors);
}
#else
inline int64_t attention_backward_workspace(const Launch&, const AttentionBackward&) {
  return 0;
}
#endif

}  // namespace perceiver::kernels
