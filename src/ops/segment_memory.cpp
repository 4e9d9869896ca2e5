#include "base/check.h"
#include "kernels/elementwise.h"
#include "kernels/relative_attention.h"
#include "ops/checks.h"
#include "ops/relative_attention.h"

namespace perceiver::ops {
namespace {

void check_memory_rows(const Tape& tape, const char* name, const MemoryRows& memory, const Tensor& x,
                       int64_t batch) {
  check_activation(tape, name, "x", x);
  if (batch < 1 || x.shape()[0] % batch != 0)
    throw_user("{}: the rows of x {} are not {} examples", name, x.shape().text(), batch);
  if (!memory.hidden) return;
  check_columns(tape, name, "memory", memory.hidden, x.dtype(), x.shape()[1]);
  if (memory.hidden.shape()[0] != batch * memory.length)
    throw_user("{}: the memory is {}, not {} rows of {} examples", name, memory.hidden.shape().text(),
               memory.length, batch);
  check_integers(tape, name, "remembered", memory.remembered, batch);
  check_range(tape, name, "remembered", memory.remembered, batch, 0, memory.length);
}

kernels::PrependMemory memory_arguments(const MemoryRows& memory, const Tensor& x, int64_t batch) {
  return {.type = x.dtype(),
          .batch = batch,
          .memory = memory.length,
          .rows = x.shape()[0] / batch,
          .columns = x.shape()[1],
          .hidden = memory.hidden.data(),
          .remembered = memory.remembered.as<int32_t>(),
          .x = x.data()};
}

}  // namespace

Variable prepend_memory(Tape& tape, const MemoryRows& memory, const Variable& x, int64_t batch) {
  check_memory_rows(tape, "prepend_memory", memory, x.value, batch);
  if (memory.length == 0) return x;
  kernels::PrependMemory k = memory_arguments(memory, x.value, batch);
  const Variable joined = tape.result(x.value.dtype(), {batch * (k.memory + k.rows), k.columns});
  k.out = joined.value.data();
  kernels::prepend_memory(tape.launch(), k);
  tape.record("prepend_memory", joined, [&tape, x = x.gradient_only(), k, d = joined.gradient] {
    const GradientTarget d_x = tape.target(x);
    if (!d_x) return;
    kernels::prepend_memory_backward(tape.launch(), {.type = k.type,
                                                     .batch = k.batch,
                                                     .memory = k.memory,
                                                     .rows = k.rows,
                                                     .columns = k.columns,
                                                     .d_out = d->tensor.data(),
                                                     .d_x = d_x.tensor.data(),
                                                     .accumulate = d_x.accumulate});
  });
  return joined;
}

void remember(Tape& tape, const MemoryRows& memory, const Tensor& x, int64_t batch, const Tensor& next) {
  check_memory_rows(tape, "remember", memory, x, batch);
  check_columns(tape, "remember", "next", next, x.dtype(), x.shape()[1]);
  if (next.shape()[0] != batch * memory.length)
    throw_user("remember: next is {}, not {} rows of {} examples", next.shape().text(), memory.length, batch);
  kernels::PrependMemory k = memory_arguments(memory, x, batch);
  k.next = next.data();
  kernels::prepend_memory(tape.launch(), k);
}

Variable scaled(Tape& tape, const Variable& x, double factor) {
  check_activation(tape, "scaled", "x", x.value);
  const auto multiply = [&tape, factor](const Tensor& from, const Tensor& to) {
    kernels::scale(tape.launch(), {.from = from.dtype(),
                                   .to = to.dtype(),
                                   .elements = from.elements(),
                                   .factor = factor,
                                   .x = from.data(),
                                   .y = to.data()});
  };
  const Variable y = tape.result(x.value.dtype(), x.shape());
  multiply(x.value, y.value);
  tape.record("scaled", y, [&tape, x = x.gradient_only(), multiply, d_y = y.gradient] {
    const Tensor d_x = Tensor::empty(tape.context(), d_y->dtype, d_y->shape);
    multiply(d_y->tensor, d_x);
    tape.give(x, d_x);
  });
  return y;
}

}  // namespace perceiver::ops
