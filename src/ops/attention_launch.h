// The launches of attention's kernels, for the operations that use them.
#pragma once

#include "kernels/attention.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

kernels::AttentionKernel attention_kernel(AttentionBackend backend);

/// Throws `user` for inputs or a mask that do not fit together.
void check_attention(const Tape& tape, const AttentionInputs& in, const AttentionMask& mask);
/// Rotates queries and keys in place if `in` has a rotary table. Not recorded: launch_attention_backward
/// undoes it in the gradients.
void rotate_inputs(Tape& tape, const AttentionInputs& in);
/// Attention of `in` to `out` [rows, heads * head_dim] and `lse` [batch, heads, queries], accumulation type.
void launch_attention(Tape& tape, const AttentionInputs& in, const AttentionMask& mask, void* out, void* lse);
/// Writes the gradients of in.q and in.kv, given the results and the gradient of `out`. Nothing may have
/// written them before.
void launch_attention_backward(Tape& tape, const AttentionInputs& in, const AttentionMask& mask,
                               const Tensor& out, const Tensor& lse, const Tensor& d_out);

}  // namespace perceiver::ops
