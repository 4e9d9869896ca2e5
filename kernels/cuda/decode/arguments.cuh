// The arguments of the decode kernel: shapes, weights, caches, and the arrays in the workspace through which
// blocks exchange vectors.
#pragma once

#include "kernels/cuda/decode/ring.cuh"
#include "kernels/cuda/support/constants.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/decode.h"
#include "kernels/elementwise.h"

namespace perceiver::kernels::cuda {

using bf16 = __nv_bfloat16;

inline constexpr int kMaxSlots = 64;
inline constexpr int kMaxChannels = 1024;  // of what is normalised
inline constexpr int kDepthParts = 4;      // of the columns of a product (ProductShare)

/// Self- or cross-attention. Its keys and values are read in tiles of `tile_rows` rows by `group` heads.
struct AttentionShape {
  int width, heads, head_dim;
  int group, groups;  // heads of a tile; heads / group
  int tile_rows;
  int warps;                 // of a block that share a head
  bool by_head;              // head_attention.cuh: tiles are TMA boxes of self_tiles
  int ring_rows, row_bytes;  // of the cache
  bool many_partials;  // of a head: where all vectors are flagged, a block's warps combine them together
  int bands, rotary_heads;
  const float* cosine;
  const float* sine;
};

/// The flagged buffers through which blocks exchange vectors, with few slots only partials and results of
/// attention (flagged_buffers.cuh).
struct FlaggedBuffers {
  uint64_t* latents[2];  // [S, Z] f32
  uint64_t* queries;     // [S, stride] f32
  uint64_t* new_kv;  // [1 + X, S, stride] pairs of channels (cached_pair): new keys, then values, of self and
                     // cross blocks
  uint64_t* partials;  // [S * groups + grid, group, head_dim + 2] f32: sums, then maximum and denominator
  uint64_t* attended;  // [S, max(Z, A) / 2] pairs of bf16
  uint64_t* hidden;    // [S, hidden / 2] pairs of bf16
  int stride;          // max(Z, A)
  uint64_t* begin;     // of all buffers, which lie one after the other
  int words;           // of all buffers
};

inline constexpr uint32_t kFlagsPerStep = 1024;
static_assert(8 + kMaxDecodeQueryLayers + 6 * (kMaxDecodeLayers + kMaxDecodeCrosses) < kFlagsPerStep);
static_assert(kDecodeEpoch * kFlagsPerStep <= uint64_t{1} << 32);

struct DecodeArguments {
  int slots, vocabulary, input, latent, layers, cross_blocks, query_layers, position_tables, stages;
  int cross_hidden, self_hidden, query_offset;
  Activation activation, query_activation;
  bool query_residual;
  AttentionShape cross_shape, self_shape;

  const bf16* token_embedding;
  const bf16* position_table[kMaxDecodeTables];
  DecodeLinear query, output;
  DecodeLinear query_mlp[kMaxDecodeQueryLayers];
  DecodeNorm output_norm;
  void* self_kv;
  void* context_kv;
  int cache_bytes;                              // of an element: 2, bf16, or 1, e4m3
  int64_t self_layer_bytes, cross_block_bytes;  // of the caches
  const int32_t *token, *position, *table_position, *context_count, *context_row, *latent_count, *latent_row,
      *active;
  float* logits;

  // In the workspace.
  const DecodeCross* cross;             // [X]
  const DecodeSelf* self;               // [L]
  unsigned long long* arrivals;         // at the grid barrier
  unsigned long long* finished_blocks;  // over all steps
  float* latents[2];                    // [S, Z]; double-buffered for the layers of the query's MLP
  float* queries;                       // [S, max(Z, A)], rotated, times softmax scale times log2(e)
  bf16* hidden;                         // [S, widest hidden]; with many slots as in input_tiles.cuh
  bf16* rows[2];                        // with many slots [S, widest input], likewise: inputs of products
  float* partials;         // [S * groups + grid, group, head_dim + 4]: sums, then maximum and denominator
  FlaggedBuffers flagged;  // in place of the arrays above, with few slots of `rows` and `partials`

  CUtensorMap self_tiles;  // of self_kv as [layers, S * ring_rows, 2 * Z], where attention is by head
  int cross_after[kMaxDecodeCrosses];

  // In place of context_kv, which is then null:
  const bf16* context_table;  // [X, V, 2A]
  int32_t *context_tokens, *context_positions;
  int table_bytes;  // of shared memory

  // With many slots, in the workspace, [kDepthParts - 1, S, Z]: parts of the last product of a layer.
  float* latent_sums;

  // What would be divisions in every phase: see grid_reciprocal(), and 1 / channels for LayerNorm.
  uint32_t grid_reciprocal;
  float inverse_input, inverse_latent;
};

/// x / blocks is the upper half of x times this number, if x * blocks < 2^32.
inline uint32_t grid_reciprocal(int blocks) {
  return static_cast<uint32_t>((uint64_t{1} << 32) / static_cast<uint64_t>(blocks) + 1);
}

}  // namespace perceiver::kernels::cuda
