// Attention whose keys are spread over the P ranks of a group (train.context_shards). Every rank has the same
// queries, and keys and values of its own.
//
// Forward. Rank r attends to its own keys: o_r, lse_r; where a row sees none of them, o_r = 0 and lse_r =
// +inf, which counts as weight 0. Then
//
//   lse = log sum_r exp(lse_r),   o = sum_r exp(lse_r - lse) o_r                               attention_join
//
// is attention over all keys. One all-gather passes o_r and lse_r around, whose size has nothing to do with
// the number of keys: each rank receives (P - 1) times the bytes of its own o_r and lse_r, each rounded up to
// a multiple of 16. All ranks add in the same order, so they have the same bits, and what is computed from o
// is replicated.
//
// Backward. What travels down are shares: the sum of a gradient over the ranks is the gradient. A replicated
// computation on replicated values carries 1/P of it, the same bits on every rank, because the loss is scaled
// so; and since backward is linear, shares of a result's gradient give shares of its operands' gradients,
// replicated or not. Here, with p_n = exp(s_n - lse) for keys n, delta = do · o and do the whole gradient, P
// times the share that arrives,
//
//   dv_n = sum_i p_in do_i,   ds_in = p_in (do_i · v_n - delta_i),   dk_n = sum_i ds_in q_i,   dq_i = sum_n
//   ds_in k_n
//
// need nothing of the other ranks but `lse` and `o`, which are at hand: the kernel of plain attention
// computes them for the own keys. dk and dv are whole where they are, and 0 on the other ranks; dq is a
// share. Parameters and the queries' input take shares as they are. Only if another sharded attention lies
// below must its do be replicated: then `replicates_d_q` sums dq over the ranks and divides it by P.
#include "ops/sharded_attention.h"
#include "base/check.h"
#include "distributed/communicator.h"
#include "kernels/attention_join.h"
#include "kernels/elementwise.h"
#include "ops/attention_launch.h"
#include "ops/attention_parts.h"

namespace perceiver::ops {
namespace {

/// Kernels read and write rows by accesses of 16 bytes.
size_t aligned(size_t bytes) {
  return (bytes + 15) / 16 * 16;
}

void scale(Tape& tape, const Tensor& x, double factor, const Tensor& y) {
  kernels::scale(tape.launch(), {.from = x.dtype(),
                                 .to = y.dtype(),
                                 .elements = x.elements(),
                                 .factor = factor,
                                 .x = x.data(),
                                 .y = y.data()});
}

Tensor like(Tape& tape, const Tensor& x, DType type) {
  return Tensor::empty(tape.context(), type, x.shape());
}

/// x = the mean of x over the ranks, summed in the accumulation type.
void average(Tape& tape, Communicator& group, const Tensor& x) {
  const DType wide = accumulation_type(x.dtype());
  const Tensor sum = x.dtype() == wide ? x : like(tape, x, wide);
  if (x.dtype() != wide) scale(tape, x, 1, sum);
  group.all_reduce(sum);
  scale(tape, sum, 1.0 / group.size(), x);
}

}  // namespace

void join_parts(Tape& tape, Communicator& group, const Tensor& out, const Tensor& lse,
                const std::function<void(void*, void*)>& part) {
  const size_t out_bytes = aligned(out.bytes()), piece = out_bytes + aligned(lse.bytes());
  const Tensor parts = Tensor::empty(tape.context(), DType::u8, {group.size() * static_cast<int64_t>(piece)});
  auto* first = static_cast<std::byte*>(parts.data());
  std::byte* own = first + static_cast<size_t>(group.rank()) * piece;
  part(own, own + out_bytes);
  group.all_gather(parts);
  kernels::attention_join(tape.launch(), {.type = out.dtype(),
                                          .parts = group.size(),
                                          .batch = lse.shape()[0],
                                          .heads = lse.shape()[1],
                                          .queries = lse.shape()[2],
                                          .head_dim = out.shape()[1] / lse.shape()[1],
                                          .part_out = first,
                                          .part_lse = first + out_bytes,
                                          .part_bytes = static_cast<int64_t>(piece),
                                          .out = out.data(),
                                          .lse = lse.data()});
}

Variable sharded_attention(Tape& tape, const AttentionInputs& in, const AttentionMask& mask,
                           const KeyShards& shards) {
  PERCEIVER_ASSERT(shards.group != nullptr && (!tape.recording() || in.q.gradient != in.kv.gradient));
  check_attention(tape, in, mask);
  rotate_inputs(tape, in);
  Communicator& group = *shards.group;
  const int64_t rows = in.q.shape()[0];
  const Variable out = tape.result(in.q.value.dtype(), {rows, in.heads * in.head_dim});
  const Tensor lse = Tensor::empty(tape.context(), accumulation_type(out.value.dtype()),
                                   {in.batch, in.heads, rows / in.batch});
  join_parts(tape, group, out.value, lse,
             [&](void* own_out, void* own_lse) { launch_attention(tape, in, mask, own_out, own_lse); });
  tape.record("attention", out, [&tape, in, mask, shards, lse, out_value = out.value, d_out = out.gradient] {
    const Tensor whole = like(tape, d_out->tensor, d_out->dtype);
    scale(tape, d_out->tensor, shards.group->size(), whole);
    launch_attention_backward(tape, in, mask, out_value, lse, whole);
    if (shards.replicates_d_q) average(tape, *shards.group, in.q.gradient->tensor);
  });
  return out;
}

}  // namespace perceiver::ops
