// Host side of the fused decode step: shapes of attention, the arrays in the workspace, and the kernel's
// arguments, which point into it.
#pragma once

#include <algorithm>

#include "kernels/cuda/decode/cache_part.cuh"
#include "kernels/cuda/decode/input_tiles.cuh"
#include "kernels/cuda/decode/shared_memory.cuh"
#include "kernels/cuda/decode/table_attention.cuh"
#include "kernels/cuda/hopper/tensor_map.h"

namespace perceiver::kernels::cuda {

/// The workspace starts with the counts of arrivals at the grid barrier and of finished blocks.
inline constexpr int64_t kCountBytes = 256, kFinishedBlocksAt = 128;

/// The largest power of two, up to `most`, that divides the number of heads.
inline int heads_per_tile(int64_t heads, int most) {
  int group = 1;
  while (heads % (2 * group) == 0 && 2 * group <= most) group *= 2;
  return group;
}

/// `part_channels`: of a key or value that a thread has (cache_part.cuh). `split_heads`: a tile has one head,
/// since there are so few rows that they must be split over the blocks by heads; a head then has few
/// partials.
inline AttentionShape attention_shape(int64_t width, int64_t heads, int64_t ring_rows,
                                      const DecodeRotary& rotary, int part_channels, bool split_heads) {
  AttentionShape shape{};
  shape.width = static_cast<int>(width);
  shape.heads = static_cast<int>(heads);
  shape.head_dim = static_cast<int>(width / heads);
  const int teams = kConsumers * part_channels / shape.head_dim;
  shape.group = split_heads ? 1 : heads_per_tile(heads, teams);
  shape.groups = shape.heads / shape.group;
  shape.warps = std::max(1, kConsumerWarps / shape.group);
  shape.by_head = split_heads && shape.head_dim == kHeadWidth;
  shape.tile_rows = shape.by_head ? kHeadTileRows : 2 * teams / shape.group;
  shape.ring_rows = static_cast<int>(ring_rows);
  shape.row_bytes = 2 * shape.width * kPartBytes / part_channels;
  shape.many_partials = !split_heads;
  shape.bands = static_cast<int>(rotary.bands);
  shape.rotary_heads = static_cast<int>(rotary.heads);
  shape.cosine = static_cast<const float*>(rotary.cosine);
  shape.sine = static_cast<const float*>(rotary.sine);
  return shape;
}

inline int part_channels(const DecodeStep& k) {
  return is_narrow(k.cache_type) ? kPartChannels<DType::e4m3> : kPartChannels<DType::bf16>;
}

inline bool by_table(const DecodeStep& k) {
  return k.context_table != nullptr;
}

/// Shared memory of attention by table with `heads` heads per block; 0 without it.
inline int64_t table_bytes(const DecodeStep& k, int heads) {
  if (!by_table(k)) return 0;
  const int64_t head_dim = k.attention_width / k.cross_heads;
  return TableLayout(k.vocabulary, head_dim, k.cross_rotary.bands, heads, kConsumerWarps).bytes;
}

/// Whether all vectors go through flagged buffers.
inline bool all_flagged(const DecodeStep& k) {
  return is_flagged(static_cast<int>(k.slots));
}

inline DecodeLayout layout_of(const DecodeStep& k, int table) {
  return {static_cast<int>(k.slots), static_cast<int>(k.cross_blocks), static_cast<int>(k.layers), table};
}

inline int64_t cache_slots(const DecodeStep& k) {
  return k.cache_slots == 0 ? k.slots : k.cache_slots;
}

/// Heads per block in attention by table, which share the angles of a position; 0 if not even one fits.
inline int table_heads(const DecodeStep& k) {
  int heads = k.context_rows >= kPairedRows ? heads_per_tile(k.cross_heads, kDecodeTableHeads) : 1;
  const int64_t most = kTableSharedBytes - layout_of(k, 0).ring - kMinTableStages * kStageBytes;
  while (heads > 0 && table_bytes(k, heads) > most) heads /= 2;
  return heads;
}

inline AttentionShape cross_shape(const DecodeStep& k) {
  AttentionShape shape = attention_shape(k.attention_width, k.cross_heads, k.context_rows, k.cross_rotary,
                                         part_channels(k), false);
  if (!by_table(k)) return shape;
  shape.group = table_heads(k);
  shape.groups = shape.heads / shape.group;
  return shape;
}
inline AttentionShape self_shape(const DecodeStep& k) {
  AttentionShape shape = attention_shape(k.latent_channels, k.self_heads, k.latent_rows, k.self_rotary,
                                         part_channels(k), all_flagged(k));
  // Heads of 256 channels are so few that each has partials of some 32 blocks. With several slots there are
  // as many times the pieces to combine, and the meetings of the warps would cost more than they save.
  if (k.slots == 1 && shape.head_dim > 128) shape.many_partials = true;
  return shape;
}

/// Offsets of the workspace's arrays, in bytes. Flagged buffers, of 8-byte words, are all of them, or with
/// few slots `rows` (the results of attention) and partials.
struct DecodeWorkspace {
  int64_t cross_table, self_table, latents[2], latent_sums, queries, hidden, rows[2], partials, new_kv, bytes;
  int64_t flagged_stride;  // FlaggedBuffers::stride

  DecodeWorkspace(const DecodeStep& k, int blocks) {
    int64_t at = kCountBytes;
    const bool flagged = all_flagged(k), few = k.slots <= kFewSlots;
    const auto take = [&](int64_t count, int64_t size) {
      const int64_t begin = at;
      at += align_256(count * size);
      return begin;
    };
    const int64_t value = flagged ? 8 : 4, part = few ? 8 : 4;
    cross_table = at, at += align_256(k.cross_blocks * static_cast<int64_t>(sizeof(DecodeCross)));
    self_table = at, at += align_256(k.layers * static_cast<int64_t>(sizeof(DecodeSelf)));
    const int64_t z = k.latent_channels, a = k.attention_width;
    const int64_t hidden_words = std::max(k.cross_widening, k.self_widening) * z / 2,
                  row_words = std::max({z, a, k.input_channels}) / 2;
    flagged_stride = std::max(z, a);
    for (int64_t& buffer : latents) buffer = take(k.slots * z, value);
    latent_sums = take(few ? 0 : (kDepthParts - 1) * k.slots * z, value);
    queries = take(k.slots * flagged_stride, value);
    // Rows of inputs, with many slots of tiles of these.
    const int64_t inputs = few ? k.slots : input_sets(static_cast<int>(k.slots)) * kSetSlots;
    hidden = take(inputs * hidden_words, value);
    for (int64_t& buffer : rows) buffer = take(inputs * row_words, part);
    new_kv = take(flagged ? (1 + k.cross_blocks) * k.slots * flagged_stride : 0, 8);
    partials = take(
        std::max(partial_floats(k, cross_shape(k), blocks), partial_floats(k, self_shape(k), blocks)), part);
    bytes = at;
  }

  static int64_t align_256(int64_t bytes) { return ceil_div(bytes, 256) * 256; }
  static int64_t partial_floats(const DecodeStep& k, const AttentionShape& shape, int blocks) {
    return (k.slots * shape.groups + blocks) * shape.group * (shape.head_dim + 4);
  }
};

inline FlaggedBuffers flagged_buffers(const DecodeStep& k, const DecodeWorkspace& at) {
  const auto words = [&](int64_t offset) {
    return reinterpret_cast<uint64_t*>(static_cast<unsigned char*>(k.workspace) + offset);
  };
  const int64_t begin = all_flagged(k) ? at.latents[0] : at.rows[0];
  return {.latents = {words(at.latents[0]), words(at.latents[1])},
          .queries = words(at.queries),
          .new_kv = words(at.new_kv),
          .partials = words(at.partials),
          .attended = words(at.rows[0]),
          .hidden = words(at.hidden),
          .stride = static_cast<int>(at.flagged_stride),
          .begin = words(begin),
          .words = static_cast<int>((at.bytes - begin) / 8)};
}

inline void point_to_workspace(const DecodeStep& k, const DecodeWorkspace& at, DecodeArguments& a) {
  unsigned char* base = static_cast<unsigned char*>(k.workspace);
  a.arrivals = reinterpret_cast<unsigned long long*>(base);
  a.finished_blocks = reinterpret_cast<unsigned long long*>(base + kFinishedBlocksAt);
  a.cross = reinterpret_cast<const DecodeCross*>(base + at.cross_table);
  a.self = reinterpret_cast<const DecodeSelf*>(base + at.self_table);
  for (int i = 0; i < 2; ++i) {
    a.latents[i] = reinterpret_cast<float*>(base + at.latents[i]);
    a.rows[i] = reinterpret_cast<bf16*>(base + at.rows[i]);
  }
  a.latent_sums = reinterpret_cast<float*>(base + at.latent_sums);
  a.queries = reinterpret_cast<float*>(base + at.queries);
  a.hidden = reinterpret_cast<bf16*>(base + at.hidden);
  a.partials = reinterpret_cast<float*>(base + at.partials);
  a.flagged = flagged_buffers(k, at);
}

inline CUtensorMap self_tiles(const DecodeStep& k) {
  const int64_t rows = k.slots * k.latent_rows, pitch = cache_slots(k) * k.latent_rows;
  const int64_t columns = 2 * k.latent_channels;
  if (is_narrow(k.cache_type))
    return hopper::narrow_tensor_map(k.self_kv, k.layers, rows, columns, kHeadTileRows, pitch);
  return hopper::tensor_map(k.self_kv, k.layers, rows, columns, columns, kHeadTileRows, pitch);
}

inline DecodeArguments make_arguments(const DecodeStep& k, int blocks, int stages) {
  DecodeArguments a{};
  a.slots = static_cast<int>(k.slots);
  a.vocabulary = static_cast<int>(k.vocabulary);
  a.input = static_cast<int>(k.input_channels);
  a.latent = static_cast<int>(k.latent_channels);
  a.layers = static_cast<int>(k.layers);
  a.cross_blocks = static_cast<int>(k.cross_blocks);
  a.query_layers = k.query_layers;
  a.position_tables = k.position_tables;
  a.stages = stages;
  a.cross_hidden = static_cast<int>(k.cross_widening * k.latent_channels);
  a.self_hidden = static_cast<int>(k.self_widening * k.latent_channels);
  a.query_offset = static_cast<int>(k.query_offset);
  a.activation = k.activation;
  a.query_activation = k.query_activation;
  a.query_residual = k.query_residual;
  a.cross_shape = cross_shape(k);
  a.self_shape = self_shape(k);
  a.token_embedding = static_cast<const bf16*>(k.token_embedding);
  a.query = k.query;
  a.output = k.output;
  a.output_norm = k.output_norm;
  a.self_kv = k.self_kv;
  a.context_kv = k.context_kv;
  a.cache_bytes = static_cast<int>(size_of(k.cache_type));
  a.self_layer_bytes = cache_slots(k) * k.latent_rows * a.self_shape.row_bytes;
  a.cross_block_bytes = cache_slots(k) * k.context_rows * a.cross_shape.row_bytes;
  a.token = k.token;
  a.position = k.position;
  a.table_position = k.table_position;
  a.context_count = k.context_count;
  a.context_row = k.context_row;
  a.latent_count = k.latent_count;
  a.latent_row = k.latent_row;
  a.active = k.active;
  a.logits = k.logits;
  a.context_table = static_cast<const bf16*>(k.context_table);
  a.context_tokens = k.context_tokens;
  a.context_positions = k.context_positions;
  a.table_bytes = static_cast<int>(table_bytes(k, a.cross_shape.group));
  for (int t = 0; t < k.position_tables; ++t)
    a.position_table[t] = static_cast<const bf16*>(k.position_table[t]);
  std::copy_n(k.query_mlp, k.query_layers, a.query_mlp);
  for (int64_t i = 0; i + 1 < k.cross_blocks; ++i) a.cross_after[i] = static_cast<int>(k.cross_after[i]);
  if (a.self_shape.by_head) a.self_tiles = self_tiles(k);
  a.grid_reciprocal = grid_reciprocal(blocks);
  a.inverse_input = 1.0f / static_cast<float>(k.input_channels);
  a.inverse_latent = 1.0f / static_cast<float>(k.latent_channels);
  point_to_workspace(k, DecodeWorkspace(k, blocks), a);
  return a;
}

}  // namespace perceiver::kernels::cuda
