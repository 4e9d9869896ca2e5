#include "base/check.h"
#include "kernels/norm.h"
#include "ops/checks.h"
#include "ops/dropout.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

Variable residual_add(Tape& tape, const Variable& residual, const Variable& branch, DropoutSite site) {
  const Tensor& in = branch.value;
  check_activation(tape, "residual_add", "branch", in);
  if (residual.value) check_same(tape, "residual_add", "residual", residual.value, in);
  const kernels::DropoutMask mask = next_mask(tape, site);
  Variable sum = tape.result(in.dtype(), in.shape());
  const bool same = mask.threshold == 0;  // the gradients of the sum and of the branch
  sum.wants_column_sums = branch.wants_column_sums && same;
  if (same) sum.wants_codes = branch.wants_codes;
  kernels::residual_layer_norm(tape.launch(), {.type = in.dtype(),
                                               .rows = in.shape()[0],
                                               .columns = in.shape()[1],
                                               .residual = residual.value.data(),
                                               .branch = in.data(),
                                               .mask = mask,
                                               .sum = sum.value.data()});
  tape.record("residual_add", sum,
              [&tape, residual = residual.gradient_only(), branch = branch.gradient_only(), mask,
               d_sum = sum.gradient] {
                if (mask.threshold > 0) {
                  const Tensor d_branch = Tensor::empty(tape.context(), d_sum->dtype, d_sum->shape);
                  kernels::dropout(tape.launch(), {.type = d_branch.dtype(),
                                                   .elements = d_branch.elements(),
                                                   .x = d_sum->tensor.data(),
                                                   .mask = mask,
                                                   .y = d_branch.data()});
                  tape.give(branch, d_branch);
                } else {
                  tape.give(branch, d_sum->tensor, d_sum->column_sums, d_sum->codes);
                }
                tape.give(residual, d_sum->tensor);
              });
  return sum;
}

}  // namespace perceiver::ops
