// What a phase of the fused decode step is: the instruction that program.cuh hands to every role.
#pragma once

#include "kernels/cuda/decode/shared_memory.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// What a product reads.
enum class ProductInput { embedding, embedding_norm, latent, latent_norm, attended, hidden };
/// Where it goes. `attention`: the first query_rows outputs to the queries, the rest to the cache.
enum class ProductOutput { latent, latent_add, latent_activated, attention, hidden, logits };

/// Outputs = W · input + bias for every slot.
struct Product {
  DecodeLinear linear;
  int rows, columns;  // outputs, inputs
  ProductInput input;
  ProductOutput output;
  DecodeNorm norm;
  Activation activation;
  int query_rows, position_offset;  // for `attention`
  void* cache;                      // [S, ring_rows, 2 * width]
  int kv_index;                     // of the new keys and values: 0 self, 1 + cross block
  int layer;                        // of self-attention
};

/// `linear`, `norm`: offsets in the block.
__device__ inline BlockStep make_step(int rows, int columns, size_t linear, size_t norm, ProductInput input,
                                      ProductOutput output) {
  return {rows,
          columns,
          static_cast<uint8_t>(linear),
          static_cast<uint8_t>(norm),
          static_cast<uint8_t>(input),
          static_cast<uint8_t>(output)};
}

/// A product, or attention of the queries over a cache (product.cache).
struct Phase {
  bool attends;
  bool cross;          // which plan `attended`, `attention` and attends refer to
  bool publishes;      // other blocks wait for the results
  bool swaps_latents;  // the latents are now in the other buffer
  Product product;
};

static_assert(sizeof(Phase) == kPhaseBytes);

#endif
}  // namespace perceiver::kernels::cuda
