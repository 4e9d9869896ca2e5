// One decode step of Perceiver AR, fused: from the token to feed to the logits that follow it, for several
// sequences ("slots") at once, in one kernel that a CUDA graph can hold. What changes from step to step is in
// device memory, so that a recorded step can be replayed. kernels/cuda/decode/decode.cu explains the
// algorithm.
//
// Shapes: S slots, out of W of the caches, V vocabulary, E input channels, Z latent channels, A width of the
// cross-attention, L self layers, X cross blocks, C rows of the context ring, R rows of the latent rings. T
// is `type`. All arrays are row-major, contiguous, on the device and aligned to 16 bytes.
#pragma once

#include <cstdint>

#include "perceiver/config.h"
#include "perceiver/experimental/dtype.h"
#include "perceiver/experimental/launch.h"

namespace perceiver::kernels {

using perceiver::Launch;

/// y = W x + b; weight [out, in] of `weight_type`, bias T [out] or null.
struct DecodeLinear {
  const void* weight = nullptr;
  const void* bias = nullptr;
};

/// LayerNorm over the channels, epsilon 1e-5; both T [channels].
struct DecodeNorm {
  const void* scale = nullptr;
  const void* offset = nullptr;
};

/// A cross block. mlp_0 projects up, mlp_1 down.
struct DecodeCross {
  DecodeNorm norm_q, norm_kv, norm_mlp;
  DecodeLinear q;      // [A, Z]
  DecodeLinear kv;     // [2A, E], keys first; not read with context_table
  DecodeLinear out;    // [Z, A]
  DecodeLinear mlp_0;  // [cross_widening * Z, Z]
  DecodeLinear mlp_1;  // [Z, cross_widening * Z]
};

struct DecodeSelf {
  DecodeNorm norm, norm_mlp;
  DecodeLinear qkv;    // [3Z, Z]: q, k, v
  DecodeLinear out;    // [Z, Z]
  DecodeLinear mlp_0;  // [self_widening * Z, Z]
  DecodeLinear mlp_1;  // [Z, self_widening * Z]
};

/// As ops::RotaryTable: f32 [positions, bands] for |position|; the first 2 * bands channels of the first
/// `heads` heads are rotated. bands = 0: no rotary positions.
struct DecodeRotary {
  const void* cosine = nullptr;
  const void* sine = nullptr;
  int64_t bands = 0, heads = 0;
};

inline constexpr int kMaxDecodeTables = 4;
inline constexpr int kMaxDecodeLayers = 128;
inline constexpr int kMaxDecodeCrosses = 8;
inline constexpr int kMaxDecodeQueryLayers = 4;
/// With few slots, the number of steps after which the kernel clears its flagged buffers. Bytes 128 to 135 of
/// the workspace count the steps, times decode_blocks().
inline constexpr uint64_t kDecodeEpoch = uint64_t{1} << 22;

/// For an active slot every row count is at least 1, and the row to write is below it. The arrays of blocks
/// are on the host and copied by the call.
struct DecodeStep {
  DType type = DType::bf16;
  /// Of the linear layers: T, or i8 or e4m3 with a scale for each row, f32 [out] at narrow_scale_offset of
  /// the weight (kernels/dequantize.h).
  DType weight_type = DType::bf16;
  /// Of the KV caches: T, or e4m3, rounded to nearest and clamped to 448.
  DType cache_type = DType::bf16;
  int64_t slots = 0, cache_slots = 0;  // S, and W; 0: as many. The step's slots are successive ones.
  int64_t vocabulary = 0, input_channels = 0, latent_channels = 0, attention_width = 0;
  int64_t cross_heads = 0, self_heads = 0, cross_widening = 4, self_widening = 4;
  int64_t layers = 0, cross_blocks = 1;
  int64_t context_rows = 0;  // C
  int64_t latent_rows = 0;   // R
  Activation activation = Activation::squared_relu;
  bool query_residual = true;
  int64_t query_offset = 0;  // added to the position of queries and latents

  // Weights.
  const void* token_embedding = nullptr;              // T [V, E]
  int position_tables = 0;                            // absolute positions: one table per axis, 0 for rotary
  const void* position_table[kMaxDecodeTables] = {};  // T [size, E]
  DecodeLinear query;                                 // Linear_z [Z, E]
  int query_layers = 0;                               // query style mlp: [Z, Z] each, with query_activation
  DecodeLinear query_mlp[kMaxDecodeQueryLayers];
  Activation query_activation = Activation::squared_relu;
  const DecodeCross* cross = nullptr;    // host [X]
  const int64_t* cross_after = nullptr;  // host [X - 1]: cross block 1 + i follows this self layer; rising
  const DecodeSelf* self = nullptr;      // host [L]
  DecodeNorm output_norm;
  DecodeLinear output;  // [V, Z]
  DecodeRotary cross_rotary, self_rotary;

  // KV caches, from the step's first slot on. A row is K (rotated) then V; the step writes one row per active
  // slot. The order of rows in a ring does not matter.
  void* self_kv = nullptr;     // cache_type [L, W, R, 2Z]
  void* context_kv = nullptr;  // cache_type [X, W, C, 2A]; null with context_table
  // Or the context as tokens, for rotary positions: keys, not rotated, and values are in tables, and the step
  // writes the slot's token and position.
  const void* context_table = nullptr;   // T [X, V, 2A]
  int32_t* context_tokens = nullptr;     // [S, C]
  int32_t* context_positions = nullptr;  // [S, C]

  // Per slot, i32 [S].
  const int32_t* token = nullptr;           // to feed
  const int32_t* position = nullptr;        // its rotary position (0 without rotary positions)
  const int32_t* table_position = nullptr;  // [S, position_tables]: its row in each position table
  const int32_t* context_count = nullptr;   // valid rows of the context ring, this step's included
  const int32_t* context_row = nullptr;     // to write
  const int32_t* latent_count = nullptr;    // valid rows of the latent rings, this step's included
  const int32_t* latent_row = nullptr;      // to write
  const int32_t* active = nullptr;          // 0: the slot is idle: neither caches nor logits are written

  float* logits = nullptr;  // [S, V]
  /// decode_workspace() bytes, aligned to 256, initialised by decode_prepare(); steps that share it have the
  /// same shape and weights and run one after the other.
  void* workspace = nullptr;
};

#ifdef PERCEIVER_CUDA
namespace cuda {
/// Whether decode_step supports this step on the launch's device: bf16, with weights and caches of bf16 or
/// eight bits, compute capability 9.0, up to 64 slots, widths that are multiples of 32 up to 1024, heads of
/// 32, 64, 128 or 256 channels; a context kept as tokens for one slot, where a head's products with the
/// vocabulary fit beside the weights (about 850 ids at 16 rotated pairs per head). Checks pointers only for
/// presence and alignment.
bool decode_supports(const Launch& launch, const DecodeStep& step);
/// Multiprocessors that a step takes, one block each. Up to 4 slots no more than there are tiles of latents,
/// since the others would only wait, and ask for the same words; but all where most of what a step reads are
/// keys and values of the context.
int decode_blocks(const Launch& launch, const DecodeStep& step);
/// Bytes of DecodeStep::workspace, of a step that is supported.
int64_t decode_workspace(const Launch& launch, const DecodeStep& step);
/// Initialises the workspace for steps like this one, in stream order.
void decode_prepare(const Launch& launch, const DecodeStep& step);
/// One step, enqueued; neither waits nor allocates.
void decode_step(const Launch& launch, const DecodeStep& step);
}  // namespace cuda
#endif

/// Whether there is a fused step for this device and shape; if not, a step runs as separate operations.
inline bool decode_supports([[maybe_unused]] const Launch& launch, [[maybe_unused]] const DecodeStep& step) {
#ifdef PERCEIVER_CUDA
  return launch.device.kind == DeviceKind::cuda && cuda::decode_supports(launch, step);
#else
  return false;
#endif
}

}  // namespace perceiver::kernels
