#include "base/check.h"
#include "kernels/embedding.h"
#include "ops/checks.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

Variable repeat_rows(Tape& tape, const Variable& x, const Variable& encoding) {
  check_activation(tape, "repeat_rows", "x", x.value);
  check_columns(tape, "repeat_rows", "encoding", encoding.value, x.value.dtype(), x.shape()[1]);
  const int64_t rows = x.shape()[0], columns = x.shape()[1], copies = encoding.shape()[0];
  const DType type = x.value.dtype();
  const Variable y = tape.result(type, {rows * copies, columns});
  kernels::repeat_rows(tape.launch(), {.type = type,
                                       .rows = rows,
                                       .copies = copies,
                                       .columns = columns,
                                       .x = x.value.data(),
                                       .encoding = encoding.value.data(),
                                       .y = y.value.data()});
  tape.record("repeat_rows", y, [&tape, x, encoding, rows, copies, columns, d_y = y.gradient] {
    const GradientTarget d_x = tape.target(x), d_encoding = tape.target(encoding);
    kernels::repeat_rows_backward(tape.launch(), {.type = d_y->dtype,
                                                  .rows = rows,
                                                  .copies = copies,
                                                  .columns = columns,
                                                  .d_y = d_y->tensor.data(),
                                                  .d_x = d_x.tensor.data(),
                                                  .accumulate_x = d_x.accumulate,
                                                  .d_encoding = d_encoding.tensor.data(),
                                                  .accumulate_encoding = d_encoding.accumulate});
  });
  return y;
}

void place_rows(Tape& tape, const Variable& x, const Variable& values, const Tensor& rows) {
  check_activation(tape, "place_rows", "x", x.value);
  check_columns(tape, "place_rows", "values", values.value, x.value.dtype(), x.shape()[1]);
  const int64_t count = values.shape()[0], columns = x.shape()[1];
  check_integers(tape, "place_rows", "rows", rows, count);
  check_range(tape, "place_rows", "row", rows, count, -1, x.shape()[0] - 1);
  const DType type = x.value.dtype();
  kernels::place_rows(tape.launch(), {.type = type,
                                      .rows = count,
                                      .columns = columns,
                                      .x = values.value.data(),
                                      .row = rows.as<int32_t>(),
                                      .target = x.value.data()});
  // In place in both directions: what made `x` receives no gradient of the rows that were replaced.
  tape.record("place_rows", x,
              [&tape, values = values.gradient_only(), rows, type, count, columns, d = x.gradient] {
                const GradientTarget d_values = tape.target(values);
                kernels::take_rows(tape.launch(), {.type = type,
                                                   .rows = count,
                                                   .columns = columns,
                                                   .row = rows.as<int32_t>(),
                                                   .d_target = d->tensor.data(),
                                                   .d_x = d_values.tensor.data(),
                                                   .accumulate = d_values.accumulate});
              });
}

Variable average_rows(Tape& tape, const Variable& x, int64_t copies) {
  check_activation(tape, "average_rows", "x", x.value);
  if (copies < 1 || x.shape()[0] % copies != 0)
    throw_user("average_rows: the rows of x {} are not groups of {}", x.shape().text(), copies);
  const int64_t rows = x.shape()[0] / copies, columns = x.shape()[1];
  const DType type = x.value.dtype();
  const Variable y = tape.result(type, {rows, columns});
  kernels::average_rows(tape.launch(), {.type = type,
                                        .rows = rows,
                                        .copies = copies,
                                        .columns = columns,
                                        .x = x.value.data(),
                                        .y = y.value.data()});
  tape.record("average_rows", y, [&tape, x, rows, copies, columns, d_y = y.gradient] {
    const GradientTarget d_x = tape.target(x);
    if (!d_x) return;
    kernels::average_rows_backward(tape.launch(), {.type = d_y->dtype,
                                                   .rows = rows,
                                                   .copies = copies,
                                                   .columns = columns,
                                                   .d_y = d_y->tensor.data(),
                                                   .d_x = d_x.tensor.data(),
                                                   .accumulate = d_x.accumulate});
  });
  return y;
}

}  // namespace perceiver::ops
