// Copies of a slot: to a file and back, and to another slot.
#pragma once

#include <cstddef>
#include <vector>

#include "generate/slots.h"
#include "io/safetensors.h"

namespace perceiver {

/// Bytes that a writer points to.
using SnapshotStorage = std::vector<std::vector<std::byte>>;

/// Adds a slot's sequence, state and caches to `writer`, which keeps pointers into `storage`. No tokens may
/// be in flight.
void save_slot(const Slots& slots, int64_t number, SafetensorsWriter& writer, SnapshotStorage& storage);

/// The content of a saved slot without its caches. Throws `user` for a file that does not fit the model and
/// options of `slots`.
Slot read_saved_slot(const Slots& slots, const SafetensorsFile& file);
/// Reads the caches of a slot that was admitted with the above; throws `user` likewise.
void read_cached_rows(const Slots& slots, int64_t number, const SafetensorsFile& file);

/// Copies caches and logits to a slot that was admitted with the same content.
void copy_cached_rows(const Slots& source, int64_t from, const Slots& target, int64_t to);

}  // namespace perceiver
