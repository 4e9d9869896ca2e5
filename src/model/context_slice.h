// How the context of an example is divided among the ranks that share it (train.context_shards): in order, as
// evenly as whole columns allow.
#pragma once

#include <cstdint>

namespace perceiver {

/// Columns [begin, end) of an example.
struct ContextSlice {
  int64_t begin = 0, end = 0;
  int64_t columns() const { return end - begin; }
};

/// The part of an example of `columns` columns that rank `rank` of `ranks` embeds; empty for some if there
/// are fewer columns than ranks.
inline ContextSlice context_slice(int64_t columns, int64_t rank, int64_t ranks) {
  return {columns * rank / ranks, columns * (rank + 1) / ranks};
}

/// Columns of a row that holds any rank's part of an example of at most `columns` columns.
inline int64_t slice_capacity(int64_t columns, int64_t ranks) {
  return (columns + ranks - 1) / ranks;
}

}  // namespace perceiver
