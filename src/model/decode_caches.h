// The fixed buffers of S slots, sequences generated together (docs/generation.md): KV caches of the latents
// and the context, and the state of each slot. Row-major; T is the model's element type,
// or bf16 where a model in f32 on the CPU keeps its caches so, or e4m3 on a GPU.
#pragma once

#include "nn/cache.h"
#include "perceiver/config.h"

namespace perceiver {

class Communicator;

struct DecodeCaches {
  int64_t slots = 0;    ///< S
  int64_t latents = 0;  ///< R, capacity of a latent cache
  int64_t context = 0;  ///< C, capacity of a context cache; 0: no cross-attention
  /// The ranks that share the contexts (model/context_share.h); C is then each one's part. Null: none.
  Communicator* context_group = nullptr;
  Tensor self_kv;         ///< T [layers, S, R, 2 Z]
  Tensor context_kv;      ///< T [cross blocks, S, C, 2 A]; none if the context is kept as tokens
  Tensor context_table;   ///< the model's type [cross blocks, V, 2 A]: keys, not rotated, and values of each
                          ///< token (rotary)
  Tensor context_tokens;  ///< i32 [S, C], if the context is kept as tokens
  Tensor context_positions;  ///< i32 [S, C]
  ops::RotaryTable self_rotary, cross_rotary;
  Tensor relative_positions;  ///< T [layers, distances, W] (Transformer-XL)
  int64_t positions = 0;      ///< rows of the rotary tables; 0 without them

  bool by_table() const { return static_cast<bool>(context_tokens); }
  LayerCache self(int64_t layer) const;
  LayerCache cross(int64_t block) const;
  int64_t bytes() const;
};

/// The state of the slots, i32 [S] each, in one tensor. Counts and rows are those of the token computed next,
/// which they include.
struct DecodeSlots {
  static constexpr int64_t kFields = 8;
  Tensor all;            ///< [kFields, S]
  Tensor token;          ///< to compute next
  Tensor position;       ///< its (first) position
  Tensor context_count;  ///< valid rows of the context cache
  Tensor context_row;    ///< the row the token is written to
  Tensor latent_count, latent_row;
  Tensor active;          ///< 0: the slot is skipped
  Tensor step;            ///< number of tokens the slot has chosen so far
  Tensor query_position;  ///< i32 [S * K], rotary positions of the new latents
  Tensor positions;       ///< i32 [S, A], rows of the position tables (absolute)
  Tensor zeros;           ///< i32 [S]

  static DecodeSlots make(DeviceContext& context, const ModelConfig& config, int64_t slots);
};

}  // namespace perceiver
