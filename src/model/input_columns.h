// Loops over the columns of a batch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/worker_pool.h"
#include "model/batch.h"
#include "perceiver/config.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {

/// Position of column n of example b along `axis`, by the model's source of positions.
inline int32_t position_of(const ModelConfig& config, const Batch& batch, int64_t b, int64_t n,
                           int64_t axis) {
  if (n < 0 || n >= batch.lengths[b]) return 0;
  const int32_t from_end = static_cast<int32_t>(batch.lengths[b] - 1 - n);
  switch (config.position_source) {
    case PositionSource::data:
      return batch.positions[(b * batch.length + n) * batch.axes + axis];
    case PositionSource::terminal_relative:
      return from_end;
    case PositionSource::terminal_relative_negated:
      return -from_end;
  }
  return 0;
}

/// Calls work(begin, end) for pieces of [0, count), on several threads if there are many: at a million tokens
/// this file is what a GPU waits for.
template <typename Work>
void in_pieces(DeviceContext& context, int64_t count, const Work& work) {
  constexpr int64_t kPiece = 1 << 15;
  if (count <= kPiece) return work(int64_t{0}, count);
  context.workers().run((count + kPiece - 1) / kPiece,
                        [&](int64_t piece) { work(piece * kPiece, std::min(count, (piece + 1) * kPiece)); });
}

}  // namespace perceiver
