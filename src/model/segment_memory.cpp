#include "model/segment_memory.h"

#include "base/check.h"
#include "kernels/relative_attention.h"

namespace perceiver {

SegmentMemory SegmentMemory::make(DeviceContext& context, DType type, const ModelConfig& config,
                                  int64_t streams, int64_t length) {
  PERCEIVER_ASSERT(streams > 0 && length >= 0);
  SegmentMemory memory{.streams = streams, .length = length, .hidden = {}, .next = {}};
  if (length == 0) return memory;
  const Shape shape{config.layers, streams, length, config.z_channels()};
  memory.hidden = Tensor::zeros(context, type, shape);
  memory.next = Tensor::zeros(context, type, shape);
  return memory;
}

Tensor SegmentMemory::layer(const Tensor& of, int64_t layer, int64_t first, int64_t count) const {
  const int64_t columns = of.shape()[3];
  PERCEIVER_ASSERT(first >= 0 && first + count <= streams);
  return of.view((layer * streams + first) * length * columns, {count * length, columns});
}

void SegmentMemory::commit(DeviceContext& context, const uint64_t* finite) const {
  if (length == 0) return;
  kernels::copy_if_finite(context.launch(), {.type = hidden.dtype(),
                                             .elements = hidden.elements(),
                                             .source = next.data(),
                                             .target = hidden.data(),
                                             .finite = finite});
}

}  // namespace perceiver
