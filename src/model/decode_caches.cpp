#include "model/decode_caches.h"

namespace perceiver {

LayerCache DecodeCaches::self(int64_t layer) const {
  const int64_t row = self_kv.shape()[3];
  LayerCache cache;
  cache.capacity = latents;
  cache.kv = self_kv.view(layer * slots * latents * row, {slots, latents, row});
  return cache;
}

LayerCache DecodeCaches::cross(int64_t block) const {
  LayerCache cache;
  cache.capacity = context;
  if (context_table) {
    const int64_t vocabulary = context_table.shape()[1], row = context_table.shape()[2];
    cache.table = context_table.view(block * vocabulary * row, {vocabulary, row});
  }
  if (by_table()) {
    cache.tokens = context_tokens;
    cache.positions = context_positions;
  } else {
    const int64_t row = context_kv.shape()[3];
    cache.kv = context_kv.view(block * slots * context * row, {slots, context, row});
  }
  return cache;
}

int64_t DecodeCaches::bytes() const {
  size_t sum = 0;
  for (const Tensor& tensor : {self_kv, context_kv, context_table, context_tokens, context_positions})
    if (tensor) sum += tensor.bytes();
  return static_cast<int64_t>(sum);
}

DecodeSlots DecodeSlots::make(DeviceContext& context, const ModelConfig& config, int64_t slots) {
  DecodeSlots s;
  s.all = Tensor::zeros(context, DType::i32, {kFields, slots});
  int64_t next = 0;
  for (Tensor* field : {&s.token, &s.position, &s.context_count, &s.context_row, &s.latent_count,
                        &s.latent_row, &s.active, &s.step})
    *field = s.all.view(slots * next++, {slots});
  s.query_position = Tensor::zeros(context, DType::i32, {slots * config.latents_per_position});
  s.positions = Tensor::zeros(context, DType::i32, {slots, config.axes()});
  s.zeros = Tensor::zeros(context, DType::i32, {slots});
  return s;
}

}  // namespace perceiver
