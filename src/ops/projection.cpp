// Keys and values from projected tables (docs/projection.md). With X̄_a the tables of tokens and positions,
// each row minus its mean:
//
//   r_n = 1 / sqrt(|sum_a X̄_a[p_an]|² / E + eps)                      sum_rstd
//   T_a = X̄_a (W ∘ scale)ᵀ,  c = W offset + b                          scale_columns, linear
//   out_n = rotated(r_n sum_a T_a[p_an] + c)                            projected_rows
#include "kernels/projection.h"
#include "base/check.h"
#include "kernels/embedding.h"
#include "ops/projection.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {
namespace {

kernels::TableRows rows_of(std::span<const Lookup> terms, int64_t rows, DType type) {
  PERCEIVER_ASSERT(!terms.empty() && terms.size() <= kernels::kMaxTables);
  kernels::TableRows result;
  result.tables = static_cast<int>(terms.size());
  for (size_t t = 0; t < terms.size(); ++t) {
    const Lookup& term = terms[t];
    PERCEIVER_ASSERT(term.table.value.dtype() == type && term.ids.elements() >= rows * term.stride &&
                     term.table.shape()[1] == terms[0].table.shape()[1]);
    result.table[t] = term.table.value.data();
    result.ids[t] = term.ids.as<int32_t>() + term.column;
    result.id_stride[t] = term.stride;
    result.table_rows[t] = term.table.value.shape()[0];
  }
  return result;
}

/// Memory for sorting `rows` by their ids in a table.
Tensor sort_scratch(Tape& tape, const Lookup& term, int64_t rows) {
  return Tensor::empty(tape.context(), DType::i32, {term.table.shape()[0] + 1 + rows});
}

kernels::Rotation rotation_of(const RotaryUse& use) {
  if (use.table.bands == 0 || use.table.heads == 0) return {};
  return {.heads = use.table.heads,
          .head_dim = use.head_dim,
          .bands = use.table.bands,
          .positions = use.positions.as<int32_t>(),
          .cosine = use.table.cosine.data(),
          .sine = use.table.sine.data()};
}

/// What the backward of a gather needs besides the gradient.
struct Gathered {
  ProjectedTables tables;
  RotaryUse rotary;
  int64_t rows, examples;
};

void tables_backward(Tape& tape, const Gathered& g, const Tensor& d_out) {
  const int64_t columns = d_out.shape()[1];
  for (const Lookup& term : g.tables.terms) {
    const GradientTarget d_table = tape.target(term.table);
    if (!d_table) continue;
    const Tensor scratch = sort_scratch(tape, term, g.rows);
    kernels::projected_rows_backward(tape.launch(), {.type = d_out.dtype(),
                                                     .rows = g.rows,
                                                     .columns = columns,
                                                     .table_rows = term.table.shape()[0],
                                                     .ids = term.ids.as<int32_t>() + term.column,
                                                     .id_stride = term.stride,
                                                     .rstd = g.tables.rstd.value.data(),
                                                     .rotation = rotation_of(g.rotary),
                                                     .d_out = d_out.data(),
                                                     .d_table = d_table.tensor.data(),
                                                     .accumulate = d_table.accumulate,
                                                     .scratch = scratch.as<int32_t>()});
  }
}

void scale_backward(Tape& tape, const Gathered& g, const Tensor& d_out) {
  const GradientTarget d_rstd = tape.target(g.tables.rstd);
  if (!d_rstd) return;
  const GradientTarget d_offset = tape.target(g.tables.offset);
  const DType wide = d_rstd.tensor.dtype();
  kernels::projected_scale_backward(tape.launch(), {.type = d_out.dtype(),
                                                    .rows = g.rows,
                                                    .columns = d_out.shape()[1],
                                                    .examples = g.examples,
                                                    .terms = rows_of(g.tables.terms, g.rows, wide),
                                                    .d_out = d_out.data(),
                                                    .d_rstd = d_rstd.tensor.data(),
                                                    .accumulate_rstd = d_rstd.accumulate,
                                                    .d_offset = d_offset.tensor.data(),
                                                    .accumulate_offset = d_offset.accumulate});
}

}  // namespace

Variable center_rows(Tape& tape, const Variable& x) {
  const DType type = x.value.dtype();
  const int64_t rows = x.shape()[0], columns = x.shape()[1];
  Variable y = tape.result(type, x.shape());
  kernels::center_rows(
      tape.launch(),
      {.type = type, .rows = rows, .columns = columns, .x = x.value.data(), .y = y.value.data()});
  if (!x.gradient) return Tape::constant(y.value);
  tape.record("center_rows", y, [&tape, x = x.gradient_only(), type, rows, columns, d_y = y.gradient] {
    const GradientTarget d_x = tape.target(x);
    kernels::center_rows(tape.launch(), {.type = type,
                                         .rows = rows,
                                         .columns = columns,
                                         .x = d_y->tensor.data(),
                                         .y = d_x.tensor.data(),
                                         .accumulate = d_x.accumulate});
  });
  return y;
}

Variable scale_columns(Tape& tape, const Variable& x, const Variable& scale) {
  const DType type = x.value.dtype();
  const int64_t rows = x.shape()[0], columns = x.shape()[1];
  PERCEIVER_ASSERT(scale.value.elements() == columns && scale.value.dtype() == type);
  const Variable y = tape.result(type, x.shape());
  kernels::scale_columns(tape.launch(), {.type = type,
                                         .rows = rows,
                                         .columns = columns,
                                         .x = x.value.data(),
                                         .scale = scale.value.data(),
                                         .y = y.value.data()});
  tape.record("scale_columns", y, [&tape, x, scale, type, rows, columns, d_y = y.gradient] {
    const GradientTarget d_x = tape.target(x), d_scale = tape.target(scale);
    kernels::scale_columns_backward(tape.launch(), {.type = type,
                                                    .rows = rows,
                                                    .columns = columns,
                                                    .x = x.value.data(),
                                                    .scale = scale.value.data(),
                                                    .d_y = d_y->tensor.data(),
                                                    .d_x = d_x.tensor.data(),
                                                    .accumulate_x = d_x.accumulate,
                                                    .d_scale = d_scale.tensor.data(),
                                                    .accumulate_scale = d_scale.accumulate});
  });
  return y;
}

Variable sum_rstd(Tape& tape, std::span<const Lookup> centred, int64_t rows, int64_t examples) {
  const DType type = centred[0].table.value.dtype();
  const int64_t columns = centred[0].table.shape()[1];
  const Variable rstd = tape.result(type, {rows});
  const kernels::SumRstd forward{.type = type,
                                 .rows = rows,
                                 .columns = columns,
                                 .examples = examples,
                                 .terms = rows_of(centred, rows, type),
                                 .rstd = rstd.value.data()};
  kernels::sum_rstd(tape.launch(), forward);
  tape.record("sum_rstd", rstd,
              [&tape, terms = std::vector<Lookup>(centred.begin(), centred.end()), forward,
               value = rstd.value, gradient = rstd.gradient] {
                for (size_t t = 0; t < terms.size(); ++t) {
                  const GradientTarget d_table = tape.target(terms[t].table);
                  if (!d_table) continue;
                  const Tensor scratch = sort_scratch(tape, terms[t], forward.rows);
                  kernels::sum_rstd_backward(tape.launch(), {.forward = forward,
                                                             .d_rstd = gradient->tensor.data(),
                                                             .table = static_cast<int>(t),
                                                             .table_rows = terms[t].table.shape()[0],
                                                             .d_table = d_table.tensor.data(),
                                                             .accumulate = d_table.accumulate,
                                                             .scratch = scratch.as<int32_t>()});
                }
              });
  return rstd;
}

Variable projected_rows(Tape& tape, const ProjectedTables& tables, const RotaryUse& rotary, int64_t rows,
                        int64_t examples, DType type) {
  const DType wide = accumulation_type(type);
  const kernels::Rotation rotation = rotation_of(rotary);
  PERCEIVER_ASSERT(static_cast<bool>(tables.rstd.value) == static_cast<bool>(tables.offset.value));
  PERCEIVER_ASSERT(!tables.rstd.value || (rotation.bands == 0 && tables.rstd.value.elements() == rows));
  const kernels::TableRows terms = rows_of(tables.terms, rows, wide);
  const int64_t columns = tables.terms[0].table.shape()[1];
  PERCEIVER_ASSERT(rotation.heads * rotation.head_dim <= columns && 2 * rotation.bands <= rotation.head_dim &&
                   rows % examples == 0);
  const Variable out = tape.result(type, {rows, columns});
  kernels::projected_rows(tape.launch(), {.type = type,
                                          .rows = rows,
                                          .columns = columns,
                                          .examples = examples,
                                          .terms = terms,
                                          .rstd = tables.rstd.value.data(),
                                          .offset = tables.offset.value.data(),
                                          .rotation = rotation,
                                          .out = out.value.data()});
  tape.record("projected_rows", out,
              [&tape, gathered = Gathered{tables, rotary, rows, examples}, gradient = out.gradient] {
                scale_backward(tape, gathered, gradient->tensor);
                tables_backward(tape, gathered, gradient->tensor);
              });
  return out;
}

}  // namespace perceiver::ops
