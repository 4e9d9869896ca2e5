// Which examples of a step one rank computes.
#pragma once

#include <cstdint>

namespace perceiver {

/// The batch of a step has `parts` micro-batches of `part_size` examples each; this rank computes `count` of
/// each, from `begin` on. Example k of a step is the same example on any number of ranks.
struct ExampleShare {
  int64_t parts = 1, part_size = 1, begin = 0, count = 1;

  int64_t size() const { return parts * count; }
  /// Number in the whole batch of example i of this rank.
  int64_t example(int64_t i) const { return i / count * part_size + begin + i % count; }
};

/// The share of one of `groups` ranks (or groups of ranks that compute the same examples), as even as
/// possible. `batch` is a multiple of `parts`, and batch / parts at least `groups`.
inline ExampleShare share_of(int64_t batch, int64_t parts, int64_t group = 0, int64_t groups = 1) {
  const int64_t size = batch / parts, begin = size * group / groups;
  return {parts, size, begin, size * (group + 1) / groups - begin};
}

}  // namespace perceiver
