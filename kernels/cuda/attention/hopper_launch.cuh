// How the Hopper attention kernels are launched: tensor maps of their matrices, grid, shared memory.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/hopper/roles.cuh"
#include "kernels/cuda/hopper/tensor_map.h"

namespace perceiver::kernels::cuda::hopper {

/// Of q, out or their gradients, for TMA loads of `box_rows` rows.
inline CUtensorMap query_rows_map(const Attention& k, const void* data, int64_t stride, int64_t box_rows) {
  return tensor_map(data, k.batch, k.queries, k.heads * k.head_dim, stride, box_rows);
}
/// Of k or v.
inline CUtensorMap key_rows_map(const Attention& k, const void* data, int64_t box_rows) {
  return tensor_map(data, k.batch, k.keys, k.heads * k.head_dim, k.kv_stride, box_rows);
}

/// One block for each tile of 128 queries (QueryTile), head and example.
inline dim3 query_grid(const Attention& k) {
  return dim3(static_cast<unsigned>(ceil_div(k.queries, 128)), static_cast<unsigned>(k.heads),
              static_cast<unsigned>(k.batch));
}

/// `kernel` on blocks of kThreads threads with `shared_bytes` of dynamic shared memory.
template <typename Arguments>
void launch_attention(const Launch& launch, const char* name, void (*kernel)(Arguments), dim3 grid,
                      uint32_t shared_bytes, const Arguments& arguments) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        name);
  kernel<<<grid, kThreads, shared_bytes, stream_of(launch)>>>(arguments);
  check_launch(name);
}

}  // namespace perceiver::kernels::cuda::hopper
