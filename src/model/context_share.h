// How ranks share the columns of a context: column c is with rank c % ranks, in place c / ranks. So each has
// as many as the others of any stretch of columns: of a short prompt, of what a query sees, of a ring buffer.
#pragma once

#include <cstdint>

namespace perceiver {

/// How many of columns 0 to columns - 1 are with `rank`. Rank 0 has the most.
inline int64_t shared_columns(int64_t columns, int64_t rank, int64_t ranks) {
  return columns > rank ? (columns - rank + ranks - 1) / ranks : 0;
}

}  // namespace perceiver
