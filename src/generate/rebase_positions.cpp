#include "generate/rebase_positions.h"

#include <algorithm>

#include "base/check.h"
#include "distributed/communicator.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"

namespace perceiver {
namespace {

/// y = x, rounded to y's type.
void cast(const Slots& slots, const Tensor& x, const Tensor& y) {
  kernels::cast(slots.context().launch(),
                {.from = x.dtype(), .to = y.dtype(), .elements = x.elements(), .x = x.data(), .y = y.data()});
}

/// Rotates the keys of `rows` [count, 2 * width] back by `shift` positions.
void rotate_back(const Slots& slots, const Tensor& rows, int64_t heads, const ops::RotaryTable& rotary,
                 int32_t shift) {
  if (rotary.bands == 0 || rotary.heads == 0) return;
  if (rows.dtype() != slots.model().type()) {
    const Tensor wide = Tensor::empty(slots.context(), slots.model().type(), rows.shape());
    cast(slots, rows, wide);
    rotate_back(slots, wide, heads, rotary, shift);
    return cast(slots, wide, rows);
  }
  const int64_t count = rows.shape()[0], columns = rows.shape()[1];
  const Tensor shifts = Tensor::from_host<int32_t>(slots.context(), {count},
                                                   std::vector<int32_t>(static_cast<size_t>(count), shift));
  kernels::rotary(slots.context().launch(), {.type = slots.model().type(),
                                             .rows = count,
                                             .row_stride = columns,
                                             .heads = rotary.heads,
                                             .head_dim = columns / 2 / heads,
                                             .bands = rotary.bands,
                                             .x = rows.data(),
                                             .positions = shifts.as<int32_t>(),
                                             .cosine = rotary.cosine.data(),
                                             .sine = rotary.sine.data(),
                                             .direction = -1});
}

/// All rows of a slot in one layer's buffer.
Tensor rows_of(const LayerCache& layer, int64_t slot) {
  const int64_t columns = layer.kv.shape()[2];
  return layer.kv.view(slot * layer.capacity * columns, {layer.capacity, columns});
}

/// Positions of a context that is kept as tokens.
void write_context_positions(const Slots& slots, int64_t number) {
  const DecodeCaches& caches = slots.caches();
  const Slot& slot = slots[number];
  const int64_t capacity = slots.config().context_length, ranks = context_ranks(slots.options()),
                rank = ranks == 1 ? 0 : slots.options().context_group->rank();
  std::vector<int32_t> positions(static_cast<size_t>(caches.context), 1);
  for (int64_t i = 0; i < slot.context; ++i) {
    const int64_t row = (slot.context_row + capacity - 1 - i) % capacity;
    if (row % ranks != rank) continue;
    positions[static_cast<size_t>(row / ranks)] = slots.position_of(slot, slot.computed - 1 - i, 0);
  }
  caches.context_positions.view(number * caches.context, {caches.context})
      .copy_from_host(std::as_bytes(std::span<const int32_t>(positions)));
}

}  // namespace

bool must_rebase_positions(const Slots& slots, const Slot& slot) {
  const int64_t reach = slots.caches().positions;
  return reach > 0 && !slot.has_given_positions() && slots.position_of(slot, slot.computed, 0) + 2 >= reach;
}

void rebase_positions(Slots& slots, int64_t number) {
  Slot& slot = slots[number];
  const ModelConfig& config = slots.config();
  const DecodeCaches& caches = slots.caches();
  const int64_t oldest = slot.computed - std::min(slot.computed, config.context_length);
  const auto shift = static_cast<int32_t>(oldest - slot.first);
  PERCEIVER_ASSERT(shift > 0);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    rotate_back(slots, rows_of(caches.self(layer), number), config.self_heads, caches.self_rotary, shift);
  const int64_t blocks = caches.context_kv ? caches.context_kv.shape()[0] : 0;
  for (int64_t block = 0; block < blocks; ++block)
    rotate_back(slots, rows_of(caches.cross(block), number), config.cross_heads, caches.cross_rotary, shift);
  slot.first = oldest;
  if (caches.by_table()) write_context_positions(slots, number);
}

}  // namespace perceiver
