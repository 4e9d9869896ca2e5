// What the layers of a Transformer-XL remember (Dai et al. 2019, section 3.2): the inputs of each layer at
// the last tokens before a segment, without gradient. A pass reads `hidden` and writes `next`; `commit` makes
// that what the following pass reads. In between backward may compute the pass again.
#pragma once

#include "perceiver/config.h"
#include "perceiver/experimental/device_context.h"
#include "perceiver/experimental/tensor.h"

namespace perceiver {

struct SegmentMemory {
  int64_t streams = 0;
  int64_t length = 0;  ///< m, rows of a stream in each layer, the newest last; 0: nothing is remembered
  Tensor hidden;       ///< T [layers, streams, m, Z]
  Tensor next;         ///< the same

  /// Contents are zero: how much of them counts is said with each pass (Batch::preceding).
  static SegmentMemory make(DeviceContext& context, DType type, const ModelConfig& config, int64_t streams,
                            int64_t length);

  /// [count * m, Z]: streams [first, first + count) of a layer.
  Tensor layer(const Tensor& of, int64_t layer, int64_t first, int64_t count) const;
  /// hidden = next, unless *finite (device memory; null: always) is 0.
  void commit(DeviceContext& context, const uint64_t* finite = nullptr) const;
};

}  // namespace perceiver
