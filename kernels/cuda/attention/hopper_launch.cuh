// How the Hopper attention kernels are launched: tensor maps of their matrices, grid, shared memory.
#pragma once

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/hopper/roles.cuh"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/support/dependent_launch.cuh"

namespace perceiver::kernels::cuda::hopper {

/// Calls body.template operator()<D>() with the narrowest heads that kernels are compiled for: TMA fills rows
/// up with zeros.
template <typename Body>
auto with_head_width(int64_t head_dim, Body&& body) {
  if (head_dim <= 32) return body.template operator()<32>();
  if (head_dim <= 64) return body.template operator()<64>();
  if (head_dim <= 96) return body.template operator()<96>();
  if (head_dim <= 128) return body.template operator()<128>();
  return body.template operator()<256>();
}

/// Of q, out or their gradients, for TMA loads of `box_rows` rows.
inline CUtensorMap query_rows_map(const Attention& k, const void* data, int64_t stride, int64_t box_rows) {
  return heads_tensor_map(data, k.batch, k.queries, k.heads, k.head_dim, stride, box_rows);
}
/// Of k or v.
inline CUtensorMap key_rows_map(const Attention& k, const void* data, int64_t box_rows) {
  return heads_tensor_map(data, k.batch, k.keys, k.heads, k.head_dim, k.kv_stride, box_rows);
}

/// Blocks that stay, one on a multiprocessor, and compute tiles of `tile` of the `rows` of each head, which
/// read two matrices of `others` rows. They take the tiles by sections of heads: as many as make two rounds,
/// but not more than 32 MiB of those matrices, which remain in the L2 cache.
struct PersistentGrid {
  PersistentGrid(const Launch& launch, const Attention& k, int64_t rows, int64_t others, int64_t tile = 128) {
    const int64_t head_tiles = ceil_div(rows, tile), head_bytes = others * k.head_dim * 4;
    blocks = static_cast<int>(std::min<int64_t>(launch.sm_count, head_tiles * k.heads * k.batch));
    const int64_t heads = std::min(2 * blocks / head_tiles, (int64_t{32} << 20) / head_bytes);
    section_heads = static_cast<int>(std::max<int64_t>(heads, 1));
  }
  int blocks, section_heads;
};

/// kKernel on blocks of kThreads threads with `shared_bytes` of dynamic shared memory.
template <auto kKernel, typename Arguments>
void launch_attention(const Launch& launch, const char* name, int blocks, uint32_t shared_bytes,
                      const Arguments& arguments) {
  check(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        name);
  launch_dependent<kKernel>(launch, name, static_cast<unsigned>(blocks), kThreads, shared_bytes, arguments);
}

}  // namespace perceiver::kernels::cuda::hopper
