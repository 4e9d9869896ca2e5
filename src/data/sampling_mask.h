// Which ids may stand where in a sequence, for data whose places differ: colour channels, levels of a codec.
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

/// Plain data, so that it can be laid out once and read on any device. Data token k of a sequence (the first
/// after SOS is token 0) may be an id of `sets[cycle[k % cycle.size()]]`; EOS (id 1) is allowed there if a
/// range of that set holds it. An empty mask allows every data id everywhere, and EOS.
struct SamplingMask {
  std::vector<std::vector<IdRange>> sets;
  std::vector<uint16_t> cycle;  ///< indices into `sets`; as long as the period, e.g. 3 for interleaved RGB

  bool empty() const { return cycle.empty(); }
  /// The ranges of data token k, k ≥ 0; not for an empty mask.
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
