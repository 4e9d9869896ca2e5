#include "kernels/embedding.h"
#include "base/check.h"
#include "kernels/elementwise.h"
#include "ops/checks.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {
namespace {

void backward_of(Tape& tape, const Lookup& lookup, int64_t rows, const Tensor& d_out) {
  const GradientTarget d_table = tape.target(lookup.table);
  if (!d_table) return;
  const int64_t entries = lookup.table.shape()[0], columns = lookup.table.shape()[1];
  const Tensor scratch = Tensor::empty(tape.context(), DType::i32, {entries + 1 + rows});
  kernels::embedding_backward(tape.launch(), {.type = d_out.dtype(),
                                              .rows = rows,
                                              .columns = columns,
                                              .table_rows = entries,
                                              .ids = lookup.ids.as<int32_t>() + lookup.column,
                                              .id_stride = lookup.stride,
                                              .d_out = d_out.data(),
                                              .d_table = d_table.tensor.data(),
                                              .accumulate = d_table.accumulate,
                                              .scratch = scratch.as<int32_t>()});
}

void check_lookup(const Tape& tape, const Lookup& lookup, int64_t rows, int64_t columns) {
  const Tensor& table = lookup.table.value;
  check_activation(tape, "embedding", "table", table);
  check_columns(tape, "embedding", "table", table, table.dtype(), columns);
  if (rows < 0 || lookup.stride < 1 || lookup.column < 0 || lookup.column >= lookup.stride)
    throw_user("embedding: {} rows of ids {} apart from id {} on", rows, lookup.stride, lookup.column);
  check_integers(tape, "embedding", "ids", lookup.ids, rows * lookup.stride);
  check_range(tape, "embedding", "id", lookup.ids, rows, 0, table.shape()[0] - 1, lookup.column,
              lookup.stride);
}

/// The table, rounded to the element type of the result.
Tensor rounded(Tape& tape, const Tensor& table, DType type) {
  if (table.dtype() == type) return table;
  const Tensor copy = Tensor::empty(tape.context(), type, table.shape());
  kernels::cast(
      tape.launch(),
      {.from = table.dtype(), .to = type, .elements = table.elements(), .x = table.data(), .y = copy.data()});
  return copy;
}

}  // namespace

Variable embedding(Tape& tape, std::span<const Lookup> lookups, int64_t rows, DType type) {
  if (lookups.empty() || lookups.size() > kernels::kMaxTables)
    throw_user("embedding: {} tables; 1 to {} are possible", lookups.size(), int{kernels::kMaxTables});
  const int64_t columns = lookups[0].table.shape().last();
  for (const Lookup& lookup : lookups) check_lookup(tape, lookup, rows, columns);
  const Variable out = tape.result(type, {rows, columns});
  std::vector<Tensor> tables;
  kernels::Embedding arguments{.type = type,
                               .rows = rows,
                               .columns = columns,
                               .tables = static_cast<int>(lookups.size()),
                               .out = out.value.data()};
  for (size_t t = 0; t < lookups.size(); ++t) {
    tables.push_back(rounded(tape, lookups[t].table.value, type));
    arguments.table[t] = tables.back().data();
    arguments.ids[t] = lookups[t].ids.as<int32_t>() + lookups[t].column;
    arguments.id_stride[t] = lookups[t].stride;
  }
  kernels::embedding(tape.launch(), arguments);
  tape.record(
      "embedding", out,
      [&tape, terms = std::vector<Lookup>(lookups.begin(), lookups.end()), rows, gradient = out.gradient] {
        for (const Lookup& lookup : terms) backward_of(tape, lookup, rows, gradient->tensor);
      });
  return out;
}

Variable embedding(Tape& tape, const Variable& table, const Tensor& ids) {
  const Lookup lookup{.table = table, .ids = ids};
  return embedding(tape, {&lookup, 1}, ids.elements(), table.value.dtype());
}

}  // namespace perceiver::ops
