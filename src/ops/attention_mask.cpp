#include <vector>

#include "base/check.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {
namespace {

/// `limit` [batch, queries], the same row for every example.
template <typename Limit>
AttentionMask mask_of(DeviceContext& context, int64_t batch, int64_t queries, const Limit& limit) {
  if (batch < 1 || queries < 1)
    throw_user("attention mask: {} examples of {} queries; there must be at least one", batch, queries);
  std::vector<int32_t> limits(static_cast<size_t>(batch * queries));
  for (size_t i = 0; i < limits.size(); ++i)
    limits[i] = static_cast<int32_t>(limit(static_cast<int64_t>(i) % queries));
  AttentionMask mask;
  mask.limit = Tensor::from_host<int32_t>(context, {batch, queries}, limits);
  return mask;
}

}  // namespace

AttentionMask causal_mask(DeviceContext& context, int64_t batch, int64_t length) {
  AttentionMask mask = mask_of(context, batch, length, [](int64_t query) { return query + 1; });
  mask.plain_causal = true;
  return mask;
}

AttentionMask full_mask(DeviceContext& context, int64_t batch, int64_t queries, int64_t keys) {
  return mask_of(context, batch, queries, [keys](int64_t) { return keys; });
}

}  // namespace perceiver::ops
