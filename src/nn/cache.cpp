#include "nn/cache.h"

#include "base/check.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/sampling.h"
#include "ops/attention_parts.h"

namespace perceiver {

namespace {

/// What a run adds to the first slot's place.
template <typename T>
const T* of_run(const Tensor& tensor, int64_t slot, int64_t per_slot = 1) {
  return tensor ? tensor.as<T>() + slot * per_slot : nullptr;
}

/// From row `row` and column `column` on.
void* rows_of(const Tensor& tensor, int64_t row, int64_t column = 0) {
  const int64_t begin = row * tensor.shape()[1] + column;
  return tensor.view(begin, {tensor.elements() - begin}).data();
}

/// The arguments for the first slot, moved to those of the run.
kernels::CacheAttention at_run(kernels::CacheAttention k, const CachePass& pass, const SlotRun& run,
                               const Tensor& q, const Tensor& out) {
  const LayerCache& layer = pass.layer;
  k.slots = run.count;
  k.q = rows_of(q, run.sequence * k.queries);
  k.out = rows_of(out, run.sequence * k.queries);
  k.count = of_run<int32_t>(pass.count, run.slot);
  k.tokens = of_run<int32_t>(layer.tokens, run.slot, layer.capacity);
  k.positions = of_run<int32_t>(layer.positions, run.slot, layer.capacity);
  if (!layer.kv) return k;
  const int64_t slot = layer.capacity * layer.kv.shape()[2];
  k.cache = layer.kv.view(run.slot * slot, {run.count * slot}).data();
  return k;
}

/// The same, rounded where the type is another.
Tensor as_type(Tape& tape, const Tensor& x, DType type) {
  if (x.dtype() == type) return x;
  const Tensor y = Tensor::empty(tape.context(), type, x.shape());
  kernels::cast(tape.launch(),
                {.from = x.dtype(), .to = type, .elements = x.elements(), .x = x.data(), .y = y.data()});
  return y;
}

}  // namespace

int64_t sequences(const std::vector<SlotRun>& runs) {
  return runs.empty() ? 0 : runs.back().sequence + runs.back().count;
}

void write_cache(Tape& tape, const CachePass& pass, const Variable& x, int64_t column) {
  const LayerCache& layer = pass.layer;
  if (!layer.kv) return;
  const int64_t columns = layer.kv.shape()[2], each = x.shape()[0] / sequences(pass.runs);
  PERCEIVER_ASSERT(column + columns <= x.shape()[1]);
  const Tensor values = as_type(tape, x.value, layer.kv.dtype());
  const int64_t skipped = !pass.decode && pass.newest > 0 ? each - pass.newest : 0, copies = each - skipped;
  PERCEIVER_ASSERT(copies <= layer.capacity);
  const int64_t slot = layer.capacity * columns;
  for (const SlotRun& run : pass.runs)
    kernels::write_rows(tape.launch(), {.type = values.dtype(),
                                        .slots = run.count,
                                        .copies = copies,
                                        .columns = columns,
                                        .source = rows_of(values, run.sequence * each + skipped, column),
                                        .source_stride = x.shape()[1],
                                        .row = of_run<int32_t>(pass.row, run.slot),
                                        .active = of_run<int32_t>(pass.active, run.slot),
                                        .target = layer.kv.view(run.slot * slot, {run.count * slot}).data(),
                                        .capacity = layer.capacity});
}

Variable attend_cache(Tape& tape, const CachePass& pass, const Variable& q, int64_t heads, int64_t head_dim,
                      const ops::RotaryTable& rotary, Communicator* group) {
  const LayerCache& layer = pass.layer;
  const int64_t rows = q.shape()[0], count = sequences(pass.runs);
  const Variable out = tape.result(q.value.dtype(), {rows, heads * head_dim});
  kernels::CacheAttention k{};
  k.type = q.value.dtype();
  k.queries = rows / count;
  k.heads = heads;
  k.head_dim = head_dim;
  k.capacity = layer.capacity;
  k.q_stride = q.shape()[1];
  k.out_stride = heads * head_dim;
  k.cache_type = layer.kv ? layer.kv.dtype() : k.type;
  if (!layer.kv) {
    k.table = layer.table.data();
    k.vocabulary = layer.table.shape()[0];
    k.cosine = rotary.cosine.data();
    k.sine = rotary.sine.data();
    k.bands = rotary.bands;
    k.rotary_heads = rotary.heads;
  }
  if (group == nullptr) {
    for (const SlotRun& run : pass.runs)
      kernels::cache_attention(tape.launch(), at_run(k, pass, run, q.value, out.value));
    return out;
  }
  PERCEIVER_ASSERT(pass.runs.size() == 1);
  k = at_run(k, pass, pass.runs[0], q.value, out.value);
  const Tensor lse = Tensor::empty(tape.context(), accumulation_type(k.type), {count, heads, k.queries});
  ops::join_parts(tape, *group, out.value, lse, [&](void* own_out, void* own_lse) {
    k.out = own_out;
    k.lse = own_lse;
    kernels::cache_attention(tape.launch(), k);
  });
  return out;
}

}  // namespace perceiver
