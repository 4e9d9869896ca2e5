// Attention over whole sequences, forward and backward, and over the KV caches of generation. Part of the
// interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/embedding.h"

namespace perceiver::kernels {

/// Which implementation of attention runs on CUDA: `portable` needs bf16 and head widths that are multiples
/// of 16 up to 128, `hopper` bf16, multiples of 8 up to 256 and compute capability 9.0; `reference` takes
/// everything. `cudnn`, never chosen by `automatic`, is NVIDIA's library where it is installed: bf16, head
/// widths that are multiples of 8 up to 128, a mask that is not `general`; its gradients are not bitwise
/// repeatable. The CPU has one implementation only.
enum class AttentionKernel : uint8_t { automatic, reference, portable, hopper, cudnn };

/// What the caller knows of a mask on the host.
enum class MaskShape : uint8_t {
  general,  ///< nothing
  causal,   ///< limit[b, i] = keys - queries + i + 1, `first` is 0 everywhere, there is no key_mask
  full,     ///< limit[b, i] = keys, `first` is 0 everywhere, there is no key_mask
};

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
  MaskShape mask = MaskShape::general;  ///< must agree with the arrays above
};

/// A rotation (Rotary) that made q or k of what their gradients are wanted of.
struct AttentionRotary {
  const int32_t* positions = nullptr;  // [batch * rows]; null: none
  const void* cosine = nullptr;        // [positions, bands], accumulation type
  const void* sine = nullptr;
  int64_t bands = 0, heads = 0;  // rotated pairs of channels; the first heads are rotated
};

/// Gradients of the above; all overwritten.
struct AttentionBackward {
  Attention forward;
  const void* d_out;  // stride of `out`
  void* d_q;          // stride of q
  void* d_k;
  void* d_v;  // stride of k, v
  AttentionRotary q_rotary = {}, k_rotary = {};
  /// CUDA: attention_backward_workspace() bytes, aligned to 256; null where that is 0.
  void* scratch = nullptr;
};

/// The inverse rotation of the gradients of `rows` rows of each example, in place.
inline Rotary inverse_rotation(const AttentionBackward& a, const AttentionRotary& rotary, int64_t rows,
                               int64_t stride, void* gradient) {
  return {.type = a.forward.type,
          .rows = a.forward.batch * rows,
          .row_stride = stride,
          .heads = rotary.heads,
          .head_dim = a.forward.head_dim,
          .bands = rotary.bands,
          .x = gradient,
          .positions = rotary.positions,
          .cosine = rotary.cosine,
          .sine = rotary.sine,
          .direction = -1};
}
inline Rotary inverse_q_rotation(const AttentionBackward& a) {
  return inverse_rotation(a, a.q_rotary, a.forward.queries, a.forward.q_stride, a.d_q);
}
inline Rotary inverse_k_rotation(const AttentionBackward& a) {
  return inverse_rotation(a, a.k_rotary, a.forward.keys, a.forward.kv_stride, a.d_k);
}

/// Attention of `queries` rows of each slot over the first `count[s]` rows of the slot's KV cache (a ring
/// buffer), all visible to all queries; scale 1/sqrt(head_dim), softmax in the accumulation type, 0 where
/// there is no row. A row is K, rotated, then V: 2 * heads * head_dim elements.
///
/// By table: `table` [vocabulary, 2 * heads * head_dim] holds K, not rotated, and V of each token; row n of
/// slot s is token tokens[s, n] at rotary position positions[s, n]; `cache` is null.
struct CacheAttention {
  DType type;
  DType cache_type;  // `type`; or, on the CPU with f32, bf16; on a GPU e4m3
  int64_t slots, queries, heads, head_dim, capacity;
  const void* q;  // [slots * queries, heads * head_dim], rotated
  int64_t q_stride;
  const void* cache;     // [slots, capacity, 2 * heads * head_dim]
  const int32_t* count;  // [slots]
  void* out;
  int64_t out_stride;
  void* lse = nullptr;  // optional: accumulation type [slots, heads, queries], +inf where there is no row

  const void* table = nullptr;
  int64_t vocabulary = 0;
  const int32_t* tokens = nullptr;     // [slots, capacity]
  const int32_t* positions = nullptr;  // [slots, capacity]
  const void* cosine = nullptr;        // [positions, bands], accumulation type
  const void* sine = nullptr;
  int64_t bands = 0, rotary_heads = 0;
};

PERCEIVER_KERNEL(attention, Attention)
PERCEIVER_KERNEL(attention_backward, AttentionBackward)
PERCEIVER_KERNEL(cache_attention, CacheAttention)

/// Bytes that AttentionBackward::scratch must hold; 0 where the launch's workspace (64 MiB) is enough.
#ifdef PERCEIVER_CUDA
namespace cuda {
int64_t attention_backward_workspace(const Launch& launch, const AttentionBackward& arguments);
}
inline int64_t attention_backward_workspace(const Launch& launch, const AttentionBackward& arguments) {
  if (launch.device.kind != DeviceKind::cuda) return 0;
  return cuda::attention_backward_workspace(launch, arguments);
}
#else
inline int64_t attention_backward_workspace(const Launch&, const AttentionBackward&) {
  return 0;
}
#endif

/// Why `kernel` cannot compute attention with heads of `head_dim` channels in `type` on the launch's device:
/// a phrase for the user, or null where it can.
#ifdef PERCEIVER_CUDA
namespace cuda {
const char* attention_obstacle(AttentionKernel kernel, DType type, int64_t head_dim);
}
#endif
inline const char* attention_obstacle(const Launch& launch, AttentionKernel kernel, DType type,
                                      int64_t head_dim) {
#ifdef PERCEIVER_CUDA
  if (launch.device.kind == DeviceKind::cuda) return cuda::attention_obstacle(kernel, type, head_dim);
#endif
  (void)launch, (void)type, (void)head_dim;
  const bool known = kernel == AttentionKernel::automatic || kernel == AttentionKernel::reference;
  return known ? nullptr : "the CPU has one implementation, which is both auto and reference";
}

}  // namespace perceiver::kernels
