// What the kernels of cache attention share (cache_attention.cu, table_attention.cu): split-KV parts, whose
// partial results one kernel combines.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/support/common.cuh"

namespace perceiver::kernels::cuda {

/// Floats of a part's result for one query and head: largest score, sum of weights, weighted sum of values.
__host__ __device__ inline int64_t partial_size(int64_t head_dim) {
  return head_dim + 2;
}

/// How a KV cache is split: all splits but the last have `rows` rows.
struct KvSplits {
  int64_t count, rows;
};

/// By mixed tables in shared memory; `count` is 0 where they do not fit.
KvSplits table_splits(const Launch& launch, const CacheAttention& k);
/// Enqueues the parts of `rows` rows of queries: partials [rows, heads, parts.count, partial_size()].
void attend_table_splits(const Launch& launch, const CacheAttention& k, const KvSplits& parts,
                         int64_t first_row, int64_t rows, float* partials);

}  // namespace perceiver::kernels::cuda
