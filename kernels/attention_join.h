// Attention over keys that were split into parts: one result from those of the parts. Part of the interface
// in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

/// Joins the results of kernels::Attention over `parts` disjoint sets of keys: with lse = log sum_p
/// exp(lse_p), out = sum_p exp(lse_p - lse) out_p, which is attention over all of the keys. lse_p = +inf
/// stands for a row that saw nothing (its out_p is 0); where all parts are so, out is 0 and lse +inf. Sums
/// are in order of parts, in the accumulation type, and rounded once. The result must not overlap the parts.
struct AttentionJoin {
  DType type;
  int64_t parts, batch, heads, queries, head_dim;
  const void* part_out;  ///< of part 0: [batch * queries, heads * head_dim]
  const void* part_lse;  ///< of part 0: accumulation type [batch, heads, queries]
  int64_t part_bytes;    ///< from a part's arrays to those of the next
  void* out;             ///< as part_out
  void* lse;             ///< as part_lse
};

PERCEIVER_KERNEL(attention_join, AttentionJoin)

}  // namespace perceiver::kernels
