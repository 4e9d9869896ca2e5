// Which part of the flat parameter buffers each rank updates, and in which pieces gradients are summed.
#pragma once

#include <cstdint>
#include <vector>

namespace perceiver {

/// Adjacent parameters that are reduced in one piece, [begin, end) in elements of the flat buffers. [begin,
/// divided_end) is divided evenly among the ranks; every rank updates the rest.
struct Bucket {
  int64_t begin = 0, divided_end = 0, end = 0;

  int64_t elements() const { return end - begin; }
  int64_t divided() const { return divided_end - begin; }
};

/// Adjacent elements of the flat buffers that a rank updates.
struct Slice {
  int64_t begin = 0, elements = 0;
  int64_t state_begin = 0;  ///< place in the rank's buffers of optimizer state
  bool shared = true;       ///< every rank has this slice
};

/// Adjacent parameters.
struct ParameterRun {
  int64_t begin = 0, end = 0;
  bool whole = false;  ///< every rank updates all of it
  int kind = 0;        ///< runs of different kinds do not share a bucket
};

struct Partition {
  std::vector<Bucket> buckets;  ///< ascending, covering the flat buffers
  std::vector<Slice> slices;    ///< of one rank, ascending: one or two per bucket
  int64_t state_elements = 0;   ///< of a buffer of optimizer state
};

/// Divided pieces are multiples of this many elements: a cache line, and what vectorised kernels want.
inline constexpr int64_t kSliceAlignment = 16;

/// Gathers runs, which are adjacent and ascending, into buckets of about `bucket_elements`, never across a
/// change of `whole` or `kind`, and divides them among `ranks`. All is a function of its arguments: every
/// rank finds the same buckets.
Partition make_partition(const std::vector<ParameterRun>& runs, int rank, int ranks, int64_t bucket_elements);

/// Every rank updates everything, as one slice; only the sums are made in buckets.
Partition undivided_partition(const std::vector<ParameterRun>& runs, int64_t bucket_elements);

}  // namespace perceiver
