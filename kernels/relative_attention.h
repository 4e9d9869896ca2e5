// Attention with relative positions (Dai et al. 2019, "Transformer-XL", section 3.3), and the memory of
// earlier segments that it reads. Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/norm.h"

namespace perceiver::kernels {

/// Query i stands at key m + i, where m = keys - queries >= 0. It sees key n at distance t = m + i - n iff t
/// >= 0, n >= first[b], and t < window unless that is 0. Its score is
///
///     ((q_i + u) · k_n + (q_i + v) · r_min(t, distances - 1)) / sqrt(head_dim)
///
/// softmax in the accumulation type; weights are dropped by `dropout`, whose element of (b, h, i, n) is ((b *
/// heads + h) * queries + i) * keys + n. Rows that see nothing give 0, and lse = +inf. Row i of example b of
/// q starts at q + (b * queries + i) * q_stride, head h at + h * head_dim; likewise k, v, out. No array of
/// size queries * keys is kept.
struct RelativeAttention {
  DType type;
  int64_t batch, heads, queries, keys, head_dim;
  const void* q;
  int64_t q_stride;
  const void* k;
  const void* v;
  int64_t kv_stride;
  const void* content_bias;   // u [heads * head_dim]
  const void* position_bias;  // v, likewise
  const void* positions;      // r [distances, heads * head_dim]
  int64_t distances;          // >= 1
  int64_t window = 0;
  const int32_t* first = nullptr;  // [batch], null: 0
  DropoutMask dropout = {};
  void* out;
  int64_t out_stride;
  void* lse;  // accumulation type [batch, heads, queries]
};

/// Gradients of the above, in place of earlier ones except where it says otherwise.
struct RelativeAttentionBackward {
  RelativeAttention forward;
  const void* d_out;  // stride of `out`
  void* d_q;          // stride of q
  void* d_k;
  void* d_v;              // stride of k, v
  void* d_content_bias;   // accumulation type [heads * head_dim]
  void* d_position_bias;  // likewise
  bool accumulate_content_bias = false;
  bool accumulate_position_bias = false;
  void* d_positions;  // [distances, heads * head_dim]
  /// relative_attention_backward_scratch() bytes, aligned to 256; null where that is 0.
  void* scratch = nullptr;
};

/// One query of each slot, the newest row of the slot's ring buffer, which attends to the last `count[s]`
/// rows of it, itself included, as above (distance 0 is row[s], 1 the row before it, ...). A row is K, then
/// V: 2 * heads * head_dim elements. A slot's result does not depend on the others.
struct RelativeCacheAttention {
  DType type;
  DType cache_type;  // as in CacheAttention
  int64_t slots, heads, head_dim, capacity;
  const void* q;  // [slots, heads * head_dim ...]
  int64_t q_stride;
  const void* cache;     // [slots, capacity, 2 * heads * head_dim]
  const int32_t* count;  // [slots]
  const int32_t* row;    // [slots]
  const void* content_bias;
  const void* position_bias;
  const void* positions;
  int64_t distances;
  int64_t window = 0;
  void* out;
  int64_t out_stride;
};

/// Rows of memory, then the rows of a segment, [batch, memory + rows, columns], and what the next segment's
/// memory is: the last `memory` of these. Of an example's memory the last remembered[b] rows count, the
/// others are taken as 0.
struct PrependMemory {
  DType type;
  int64_t batch, memory, rows, columns;
  const void* hidden;         // [batch, memory, columns]; null: all 0
  const int32_t* remembered;  // [batch]
  const void* x;              // [batch, rows, columns]
  void* out = nullptr;        // null: not wanted
  void* next = nullptr;       // [batch, memory, columns], not `hidden`; null: not wanted
};

/// d_x (+)= the rows of the segment of d_out; shapes as above.
struct PrependMemoryBackward {
  DType type;
  int64_t batch, memory, rows, columns;
  const void* d_out;
  void* d_x;
  bool accumulate = false;
};

/// target = source where *finite is not 0 (null: always).
struct CopyIfFinite {
  DType type;
  int64_t elements;
  const void* source;
  void* target;
  const uint64_t* finite = nullptr;
};

PERCEIVER_KERNEL(relative_attention, RelativeAttention)
PERCEIVER_KERNEL(relative_attention_backward, RelativeAttentionBackward)
PERCEIVER_KERNEL(relative_cache_attention, RelativeCacheAttention)
PERCEIVER_KERNEL(prepend_memory, PrependMemory)
PERCEIVER_KERNEL(prepend_memory_backward, PrependMemoryBackward)
PERCEIVER_KERNEL(copy_if_finite, CopyIfFinite)

/// Bytes that RelativeAttentionBackward::scratch must hold.
#ifdef PERCEIVER_CUDA
namespace cuda {
int64_t relative_attention_backward_scratch(const RelativeAttention& arguments);
}
#endif
inline int64_t relative_attention_backward_scratch(const Launch& launch, const RelativeAttention& arguments) {
#ifdef PERCEIVER_CUDA
  if (launch.device.kind == DeviceKind::cuda) return cuda::relative_attention_backward_scratch(arguments);
#endif
  (void)launch, (void)arguments;
  return 0;
}

}  // namespace perceiver::kernels
