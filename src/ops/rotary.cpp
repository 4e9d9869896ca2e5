#include "base/check.h"
#include "kernels/embedding.h"
#include "ops/checks.h"
#include "ops/rotary_launch.h"

namespace perceiver::ops {

void check_rotary(const Tape& tape, const Tensor& x, int64_t column, int64_t head_dim,
                  const RotaryTable& table, const Tensor& positions) {
  check_activation(tape, "rotary", "x", x);
  const int64_t rows = x.shape()[0], columns = x.shape()[1], last = table.cosine.shape()[0] - 1;
  if (column < 0 || column + table.heads * head_dim > columns || 2 * table.bands > head_dim)
    throw_user("rotary: {} heads of {} channels from column {} on, {} pairs rotated, do not fit x {}",
               table.heads, head_dim, column, table.bands, x.shape().text());
  const DType wide = accumulation_type(x.dtype());
  check_columns(tape, "rotary", "cosine", table.cosine, wide, table.bands);
  check_same(tape, "rotary", "sine", table.sine, table.cosine);
  check_integers(tape, "rotary", "positions", positions, rows);
  check_range(tape, "rotary", "position", positions, rows, -last, last);
}

void launch_rotary(Tape& tape, const Tensor& x, int64_t column, int64_t head_dim, const RotaryTable& table,
                   const Tensor& positions, int direction) {
  const Tensor part = x.view(column, {x.elements() - column});
  kernels::rotary(tape.launch(), {.type = x.dtype(),
                                  .rows = x.shape()[0],
                                  .row_stride = x.shape()[1],
                                  .heads = table.heads,
                                  .head_dim = head_dim,
                                  .bands = table.bands,
                                  .x = part.data(),
                                  .positions = positions.as<int32_t>(),
                                  .cosine = table.cosine.data(),
                                  .sine = table.sine.data(),
                                  .direction = direction});
}

void rotary(Tape& tape, const Variable& x, int64_t column, int64_t head_dim, const RotaryTable& table,
            const Tensor& positions) {
  if (table.bands == 0 || table.heads == 0) return;
  check_rotary(tape, x.value, column, head_dim, table, positions);
  launch_rotary(tape, x.value, column, head_dim, table, positions);
  // In place in both directions: the operation that made `x` receives the gradient of the unrotated values.
  tape.record("rotary", x, [&tape, gradient = x.gradient, column, head_dim, table, positions] {
    launch_rotary(tape, gradient->tensor, column, head_dim, table, positions, -1);
  });
}

}  // namespace perceiver::ops
