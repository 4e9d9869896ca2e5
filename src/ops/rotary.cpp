#include "base/check.h"
#include "kernels/embedding.h"
#include "ops/checks.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

void rotary(Tape& tape, const Variable& x, int64_t column, int64_t head_dim, const RotaryTable& table,
            const Tensor& positions) {
  if (table.bands == 0 || table.heads == 0) return;
  check_activation(tape, "rotary", "x", x.value);
  const int64_t rows = x.shape()[0], columns = x.shape()[1], last = table.cosine.shape()[0] - 1;
  if (column < 0 || column + table.heads * head_dim > columns || 2 * table.bands > head_dim)
    throw_user("rotary: {} heads of {} channels from column {} on, {} pairs rotated, do not fit x {}",
               table.heads, head_dim, column, table.bands, x.shape().text());
  const DType wide = accumulation_type(x.value.dtype());
  check_columns(tape, "rotary", "cosine", table.cosine, wide, table.bands);
  check_same(tape, "rotary", "sine", table.sine, table.cosine);
  check_integers(tape, "rotary", "positions", positions, rows);
  check_range(tape, "rotary", "position", positions, rows, -last, last);
  const auto rotate = [&tape, column, rows, columns, head_dim, table, positions](const Tensor& target,
                                                                                 int direction) {
    const Tensor part = target.view(column, {target.elements() - column});
    kernels::rotary(tape.launch(), {.type = target.dtype(),
                                    .rows = rows,
                                    .row_stride = columns,
                                    .heads = table.heads,
                                    .head_dim = head_dim,
                                    .bands = table.bands,
                                    .x = part.data(),
                                    .positions = positions.as<int32_t>(),
                                    .cosine = table.cosine.data(),
                                    .sine = table.sine.data(),
                                    .direction = direction});
  };
  rotate(x.value, 1);
  // In place in both directions: the operation that made `x` receives the gradient of the unrotated values.
  tape.record("rotary", x, [rotate, gradient = x.gradient] { rotate(gradient->tensor, -1); });
}

}  // namespace perceiver::ops
