// Which ids are allowed where in a sequence, for data whose places differ: colour channels, codec levels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace perceiver {

/// Ids first … last − 1.
struct IdRange {
  int32_t first = 0;
  int32_t last = 0;
  bool operator==(const IdRange&) const = default;
};

/// Plain data that can be laid out once and read on any device. Data token k of a sequence (token 0 is the
/// first after SOS) may be any id in `sets[cycle[k % cycle.size()]]`; EOS (id 1) is allowed if a range of
/// that set contains it. An empty mask allows every data id and EOS everywhere.
struct SamplingMask {
  std::vector<std::vector<IdRange>> sets;
  std::vector<uint16_t> cycle;  ///< indices into `sets`; its length is the period, e.g. 3 for interleaved RGB

  bool empty() const { return cycle.empty(); }
  /// The ranges for data token k ≥ 0; not for an empty mask.
  const std::vector<IdRange>& at(int64_t k) const {
    return sets[cycle[static_cast<size_t>(k) % cycle.size()]];
  }
  bool allows(int64_t k, int32_t id) const {
    if (empty()) return true;
    for (const IdRange& range : at(k))
      if (id >= range.first && id < range.last) return true;
    return false;
  }
  bool operator==(const SamplingMask&) const = default;
};

}  // namespace perceiver
