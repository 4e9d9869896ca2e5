// What a data set passes to the model: one batch of token rows, on the host.
#pragma once

#include <cstdint>
#include <vector>

namespace perceiver {

/// Token rows of B examples, right-padded with PAD (0). `targets` holds the token after each of `tokens` (PAD
/// where nothing follows or is to be scored). Positions are those of the data (docs/model.md, "Sequences"), 0
/// at PAD.
struct Batch {
  int64_t size = 0;                ///< B
  int64_t length = 0;              ///< N, columns of `tokens` and `targets`
  int64_t axes = 1;                ///< A
  std::vector<int32_t> tokens;     ///< [B, N]
  std::vector<int32_t> targets;    ///< [B, N]
  std::vector<int32_t> positions;  ///< [B, N, A]
  std::vector<int32_t> lengths;    ///< [B], index of the first PAD in `tokens` (N if none)
  /// [B], tokens of the row's stream before it, of which a memory holds the last ones
  /// (model/segment_memory.h); empty: each row starts a stream.
  std::vector<int64_t> preceding;

  void resize(int64_t batch, int64_t columns, int64_t position_axes) {
    size = batch, length = columns, axes = position_axes;
    tokens.assign(batch * columns, 0);
    targets.assign(batch * columns, 0);
    positions.assign(batch * columns * position_axes, 0);
    lengths.assign(batch, 0);
    preceding.clear();
  }
};

}  // namespace perceiver
