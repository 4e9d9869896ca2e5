#include "nn/cache.h"

#include "base/check.h"
#include "kernels/attention.h"
#include "kernels/sampling.h"
#include "ops/attention_parts.h"

namespace perceiver {

void write_cache(Tape& tape, const CachePass& pass, const Variable& x, int64_t column) {
  const LayerCache& layer = pass.layer;
  if (!layer.kv) return;
  const int64_t slots = layer.kv.shape()[0], columns = layer.kv.shape()[2], rows = x.shape()[0];
  PERCEIVER_ASSERT(column + columns <= x.shape()[1] && x.value.dtype() == layer.kv.dtype());
  kernels::WriteRows k{};
  k.type = x.value.dtype();
  k.slots = pass.decode ? slots : 1;
  const int64_t skipped = !pass.decode && pass.newest > 0 ? rows - pass.newest : 0;
  k.copies = (rows - skipped) / k.slots;
  k.columns = columns;
  const int64_t start = skipped * x.shape()[1] + column;
  k.source = x.value.view(start, {x.value.elements() - start}).data();
  k.source_stride = x.shape()[1];
  k.capacity = layer.capacity;
  PERCEIVER_ASSERT(k.copies <= k.capacity);
  if (pass.decode) {
    k.row = pass.row.as<int32_t>();
    k.active = pass.active.as<int32_t>();
    k.target = layer.kv.data();
  } else {
    k.target = layer.kv.view(pass.slot * layer.capacity * columns, {layer.capacity, columns}).data();
  }
  kernels::write_rows(tape.launch(), k);
}

Variable attend_cache(Tape& tape, const CachePass& pass, const Variable& q, int64_t heads, int64_t head_dim,
                      const ops::RotaryTable& rotary, Communicator* group) {
  const LayerCache& layer = pass.layer;
  const int64_t rows = q.shape()[0], slots = pass.count.elements();
  const Variable out = tape.result(q.value.dtype(), {rows, heads * head_dim});
  kernels::CacheAttention k{};
  k.type = q.value.dtype();
  k.slots = slots;
  k.queries = rows / slots;
  k.heads = heads;
  k.head_dim = head_dim;
  k.capacity = layer.capacity;
  k.q = q.value.data();
  k.q_stride = q.shape()[1];
  k.cache = layer.kv.data();
  k.count = pass.count.as<int32_t>();
  k.out = out.value.data();
  k.out_stride = heads * head_dim;
  if (!layer.kv) {
    k.table = layer.table.data();
    k.vocabulary = layer.table.shape()[0];
    k.tokens = layer.tokens.as<int32_t>();
    k.positions = layer.positions.as<int32_t>();
    k.cosine = rotary.cosine.data();
    k.sine = rotary.sine.data();
    k.bands = rotary.bands;
    k.rotary_heads = rotary.heads;
  }
  if (group == nullptr) {
    kernels::cache_attention(tape.launch(), k);
    return out;
  }
  const Tensor lse = Tensor::empty(tape.context(), accumulation_type(k.type), {slots, heads, k.queries});
  ops::join_parts(tape, *group, out.value, lse, [&](void* own_out, void* own_lse) {
    k.out = own_out;
    k.lse = own_lse;
    kernels::cache_attention(tape.launch(), k);
  });
  return out;
}

}  // namespace perceiver
