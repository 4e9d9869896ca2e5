#include "kernels/attention.h"

#include "base/check.h"
#include "ops/attention_launch.h"

namespace perceiver::ops {
namespace {

/// Address of a column of the first row.
void* column_of(const Tensor& matrix, int64_t column) {
  return static_cast<std::byte*>(matrix.data()) + static_cast<size_t>(column) * size_of(matrix.dtype());
}

kernels::Attention arguments_of(const AttentionInputs& in, const AttentionMask& mask, void* out, void* lse) {
  const int64_t queries = in.q.shape()[0] / in.batch, keys = in.kv.shape()[0] / in.batch;
  kernels::Attention k{};
  k.type = in.q.value.dtype();
  k.batch = in.batch;
  k.heads = in.heads;
  k.queries = queries;
  k.keys = keys;
  k.head_dim = in.head_dim;
  k.q = column_of(in.q.value, in.q_column);
  k.q_stride = in.q.shape()[1];
  k.k = column_of(in.kv.value, in.k_column);
  k.v = column_of(in.kv.value, in.v_column);
  k.kv_stride = in.kv.shape()[1];
  k.first = mask.first.as<int32_t>();
  k.limit = mask.limit.as<int32_t>();
  k.key_mask = mask.key_mask.as<uint8_t>();
  k.self_visible = mask.self_visible;
  k.out = out;
  k.out_stride = in.heads * in.head_dim;
  k.lse = lse;
  k.kernel = attention_kernel(in.backend);
  k.mask = mask.plain_causal ? kernels::MaskShape::causal : kernels::MaskShape::general;
  return k;
}

}  // namespace

kernels::AttentionKernel attention_kernel(AttentionBackend backend) {
  switch (backend) {
    case AttentionBackend::automatic:
      return kernels::AttentionKernel::automatic;
    case AttentionBackend::hopper:
      return kernels::AttentionKernel::hopper;
    case AttentionBackend::portable:
      return kernels::AttentionKernel::portable;
    case AttentionBackend::reference:
      return kernels::AttentionKernel::reference;
    case AttentionBackend::cudnn:
      return kernels::AttentionKernel::cudnn;
  }
  throw_failure("internal error: unknown attention backend {}", static_cast<int>(backend));
}

void launch_attention(Tape& tape, const AttentionInputs& in, const AttentionMask& mask, void* out,
                      void* lse) {
  const int64_t rows = in.q.shape()[0];
  PERCEIVER_ASSERT(rows % in.batch == 0 && in.kv.shape()[0] % in.batch == 0 && mask.limit.elements() == rows);
  kernels::attention(tape.launch(), arguments_of(in, mask, out, lse));
}

void launch_attention_backward(Tape& tape, const AttentionInputs& in, const AttentionMask& mask,
                               const Tensor& out, const Tensor& lse, const Tensor& d_out) {
  const bool packed = in.q.gradient == in.kv.gradient;
  const GradientTarget d_q = tape.target(in.q);
  const GradientTarget d_kv = packed ? d_q : tape.target(in.kv);
  PERCEIVER_ASSERT(d_q && d_kv && !d_q.accumulate && !d_kv.accumulate);
  kernels::AttentionBackward arguments{.forward = arguments_of(in, mask, out.data(), lse.data()),
                                       .d_out = d_out.data(),
                                       .d_q = column_of(d_q.tensor, in.q_column),
                                       .d_k = column_of(d_kv.tensor, in.k_column),
                                       .d_v = column_of(d_kv.tensor, in.v_column)};
  const int64_t bytes = kernels::attention_backward_workspace(tape.launch(), arguments);
  const Tensor scratch = bytes > 0 ? Tensor::empty(tape.context(), DType::u8, {bytes}) : Tensor();
  arguments.scratch = scratch.data();
  kernels::attention_backward(tape.launch(), arguments);
}

Variable attention(Tape& tape, const AttentionInputs& in, const AttentionMask& mask) {
  const int64_t rows = in.q.shape()[0];
  const Variable out = tape.result(in.q.value.dtype(), {rows, in.heads * in.head_dim});
  const Tensor lse = Tensor::empty(tape.context(), accumulation_type(out.value.dtype()),
                                   {in.batch, in.heads, rows / in.batch});
  launch_attention(tape, in, mask, out.value.data(), lse.data());
  tape.record("attention", out, [&tape, in, mask, lse, out_value = out.value, d_out = out.gradient] {
    launch_attention_backward(tape, in, mask, out_value, lse, d_out->tensor);
  });
  return out;
}

}  // namespace perceiver::ops
