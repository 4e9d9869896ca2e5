// The slots' rings: new rows, and moving on by a token.
#include <cstring>

#include "kernels/cpu/parallel.h"
#include "kernels/kernels.h"

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

void advance_slots(const AdvanceSlots& k) {
  for (int64_t s = 0; s < k.slots; ++s) {
    if (k.active[s] == 0) continue;
    const auto copies = static_cast<int32_t>(k.copies);
    ++k.step[s];
    ++k.position[s];
    for (int64_t c = 0; c < k.copies; ++c)
      k.query_position[s * k.copies + c] = k.position[s] + k.query_offset;
    k.latent_count[s] = std::min(k.latent_count[s] + copies, static_cast<int32_t>(k.latent_capacity));
    k.latent_row[s] = (k.latent_row[s] + copies) % static_cast<int32_t>(k.latent_capacity);
    if (k.context_capacity == 0) continue;
    k.context_count[s] = std::min(k.context_count[s] + 1, static_cast<int32_t>(k.context_capacity));
    k.context_row[s] = (k.context_row[s] + 1) % static_cast<int32_t>(k.context_capacity);
  }
}

}  // namespace perceiver::kernels::cpu
