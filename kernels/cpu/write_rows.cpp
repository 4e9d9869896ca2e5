// Writes new rows into the slots' ring buffers, and finds a rank's part of shared ones.
#include <cstring>

#include "kernels/cpu/parallel.h"
#include "kernels/sampling.h"

namespace perceiver::kernels::cpu {

void write_rows(const WriteRows& k) {
  const size_t element = size_of(k.type), bytes = static_cast<size_t>(k.columns) * element;
  const auto* source = static_cast<const std::byte*>(k.source);
  auto* target = static_cast<std::byte*>(k.target);
  for (int64_t s = 0; s < k.slots; ++s) {
    if (k.active != nullptr && k.active[s] == 0) continue;
    const int64_t first = k.row == nullptr ? 0 : k.row[s];
    for (int64_t c = 0; c < k.copies; ++c) {
      const int64_t row = s * k.capacity + (first + c) % k.capacity;
      std::memcpy(target + static_cast<size_t>(row) * bytes,
                  source + static_cast<size_t>((s * k.copies + c) * k.source_stride) * element, bytes);
    }
  }
}

void share_slots(const ShareSlots& k) {
  for (int64_t s = 0; s < k.slots; ++s) {
    k.own_active[s] = k.active[s] != 0 && k.row[s] % k.ranks == k.rank;
    k.own_count[s] = k.count[s] > k.rank ? (k.count[s] - k.rank + k.ranks - 1) / k.ranks : 0;
    k.own_row[s] = k.row[s] / k.ranks;
  }
}

}  // namespace perceiver::kernels::cpu
