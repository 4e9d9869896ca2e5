#include "kernels/attention.h"

#include "base/check.h"
#include "ops/attention_launch.h"
#include "ops/checks.h"
#include "ops/fp8.h"
#include "ops/rotary_launch.h"

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

bool within(const Variable& x, int64_t column, int64_t width) {
  return column >= 0 && column + width <= x.shape()[1];
}

bool packed(const AttentionInputs& in) {
  return in.q.gradient && in.q.gradient == in.kv.gradient;
}

/// Gradients are written for the columns of the heads only: they must be all that there are.
bool covers(const AttentionInputs& in, int64_t width) {
  if (!in.q.gradient && !in.kv.gradient) return true;
  if (!packed(in))
    return in.q.shape()[1] == width && in.kv.shape()[1] == 2 * width && in.k_column != in.v_column;
  return in.q.shape()[1] == 3 * width && in.q_column != in.k_column && in.q_column != in.v_column &&
         in.k_column != in.v_column;
}

void check_columns_of(const Tape& tape, const AttentionInputs& in) {
  const int64_t width = in.heads * in.head_dim;
  const auto text = [&] {
    return fmt::format("attention: {} heads of {} channels, q at column {} of {}, k and v at {} and {} of {}",
                       in.heads, in.head_dim, in.q_column, in.q.shape().text(), in.k_column, in.v_column,
                       in.kv.shape().text());
  };
  if (in.heads < 1 || in.head_dim < 1 || !within(in.q, in.q_column, width) ||
      !within(in.kv, in.k_column, width) || !within(in.kv, in.v_column, width))
    throw_user("{}: outside of the matrices", text());
  if (tape.recording() && !covers(in, width))
    throw_user("{}: q, k and v must cover all columns, without overlap", text());
}

void check_limits(const Tape& tape, const AttentionInputs& in, const AttentionMask& mask) {
  const int64_t rows = in.q.shape()[0], keys = in.kv.shape()[0] / in.batch;
  check_integers(tape, "attention", "the mask's limit", mask.limit, rows);
  check_range(tape, "attention", "limit", mask.limit, rows, 0, keys);
  if (mask.first) check_integers(tape, "attention", "the mask's first", mask.first, in.batch);
  if (mask.first) check_range(tape, "attention", "first", mask.first, in.batch, 0, keys);
  if (mask.key_mask && (mask.key_mask.dtype() != DType::u8 || mask.key_mask.elements() != in.kv.shape()[0]))
    throw_user("attention: the key mask is {} {}; u8 [{}, {}] is needed", name_of(mask.key_mask.dtype()),
               mask.key_mask.shape().text(), in.batch, keys);
}

bool rotates(const AttentionInputs& in) {
  return in.rotary.bands > 0 && in.rotary.heads > 0;
}

/// Heads of queries and keys that are side by side and rotated by the same positions are twice as many heads.
bool side_by_side(const AttentionInputs& in) {
  return in.q.value.data() == in.kv.value.data() && in.k_column == in.q_column + in.heads * in.head_dim &&
         in.rotary.heads == in.heads && in.query_positions.data() == in.key_positions.data();
}

kernels::AttentionRotary rotation(const AttentionInputs& in, const Tensor& positions) {
  if (!rotates(in)) return {};
  return {.positions = positions.as<int32_t>(),
          .cosine = in.rotary.cosine.data(),
          .sine = in.rotary.sine.data(),
          .bands = in.rotary.bands,
          .heads = in.rotary.heads};
}

/// Memory for the whole gradient of a matrix of heads: its own place, if nothing else wrote there.
Tensor place_for(Tape& tape, const Variable& x, const Tensor& value) {
  const bool own = x.gradient && !x.gradient->written && !x.gradient->preallocated;
  return own ? tape.target(x).tensor : Tensor::empty(tape.context(), value.dtype(), value.shape());
}

/// Passes on what place_for gave memory for.
void hand_on(Tape& tape, const Variable& x, const Tensor& gradient) {
  if (x.gradient && x.gradient->tensor.data() != gradient.data()) tape.give(x, gradient);
}

/// Backward of packed heads that leaves their gradient in 8 bits, where the layer that made them reads it so.
bool quantised_backward(Tape& tape, const AttentionInputs& in, const kernels::AttentionBackward& arguments) {
  if (!packed(in) || in.q.gradient->written || !kernels::fp8_attention_possible(tape.launch(), arguments))
    return false;
  const std::optional<Fp8Matrix> quantised = gradient_in_fp8(tape, in.q);
  if (!quantised) return false;
  const Gradient& gradient = *in.q.gradient;
  Tensor sums;
  if (in.q.wants_column_sums)
    sums = Tensor::empty(tape.context(), accumulation_type(gradient.dtype), {gradient.shape[1]});
  kernels::Fp8AttentionBackward k{.backward = arguments,
                                  .quantize = quantised->quantize,
                                  .q_column = in.q_column,
                                  .k_column = in.k_column,
                                  .v_column = in.v_column};
  k.quantize.column_sums = sums.data();
  kernels::fp8_attention_backward(tape.launch(), k);
  tape.give(in.q, Tensor::without_contents(tape.context(), gradient.dtype, gradient.shape), sums,
            quantised->codes);
  return true;
}

/// Where attention leaves its result for `in.reader`.
std::optional<Fp8Matrix> quantised_result(Tape& tape, const AttentionInputs& in,
                                          const kernels::Attention& arguments) {
  if (!kernels::fp8_attention_possible(tape.launch(), arguments)) return std::nullopt;
  return input_in_fp8(tape, in.reader, arguments.type, arguments.batch * arguments.queries,
                      arguments.out_stride);
}

}  // namespace

void check_attention(const Tape& tape, const AttentionInputs& in, const AttentionMask& mask) {
  check_activation(tape, "attention", "q", in.q.value);
  check_activation(tape, "attention", "kv", in.kv.value);
  check_operand(tape, "attention", "kv", in.kv.value, in.q.value.dtype(), 2);
  const int64_t rows = in.q.shape()[0];
  if (in.batch < 1 || rows % in.batch != 0 || in.kv.shape()[0] % in.batch != 0)
    throw_user("attention: the rows of q {} and kv {} are not {} examples", in.q.shape().text(),
               in.kv.shape().text(), in.batch);
  check_columns_of(tape, in);
  check_limits(tape, in, mask);
}

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

void rotate_inputs(Tape& tape, const AttentionInputs& in) {
  if (!rotates(in) || in.rotated) return;
  check_rotary(tape, in.q.value, in.q_column, in.head_dim, in.rotary, in.query_positions);
  check_rotary(tape, in.kv.value, in.k_column, in.head_dim, in.rotary, in.key_positions);
  RotaryTable table = in.rotary;
  if (side_by_side(in)) {
    table.heads *= 2;
  } else {
    launch_rotary(tape, in.kv.value, in.k_column, in.head_dim, table, in.key_positions);
  }
  launch_rotary(tape, in.q.value, in.q_column, in.head_dim, table, in.query_positions);
}

void launch_attention(Tape& tape, const AttentionInputs& in, const AttentionMask& mask, void* out,
                      void* lse) {
  kernels::attention(tape.launch(), arguments_of(in, mask, out, lse));
}

void launch_attention_backward(Tape& tape, const AttentionInputs& in, const AttentionMask& mask,
                               const Tensor& out, const Tensor& lse, const Tensor& d_out) {
  kernels::AttentionBackward arguments{.forward = arguments_of(in, mask, out.data(), lse.data()),
                                       .d_out = d_out.data(),
                                       .d_q = nullptr,
                                       .d_k = nullptr,
                                       .d_v = nullptr,
                                       .q_rotary = rotation(in, in.query_positions),
                                       .k_rotary = rotation(in, in.key_positions)};
  const int64_t bytes = kernels::attention_backward_workspace(tape.launch(), arguments);
  const Tensor scratch = bytes > 0 ? Tensor::empty(tape.context(), DType::u8, {bytes}) : Tensor();
  arguments.scratch = scratch.data();
  if (quantised_backward(tape, in, arguments)) return;
  const Tensor d_q = place_for(tape, in.q, in.q.value);
  const Tensor d_kv = packed(in) ? d_q : place_for(tape, in.kv, in.kv.value);
  arguments.d_q = column_of(d_q, in.q_column);
  arguments.d_k = column_of(d_kv, in.k_column);
  arguments.d_v = column_of(d_kv, in.v_column);
  kernels::attention_backward(tape.launch(), arguments);
  hand_on(tape, in.q, d_q);
  if (!packed(in)) hand_on(tape, in.kv, d_kv);
}

Variable attention(Tape& tape, const AttentionInputs& in, const AttentionMask& mask) {
  check_attention(tape, in, mask);
  rotate_inputs(tape, in);
  const int64_t rows = in.q.shape()[0];
  Variable out = tape.result(in.q.value.dtype(), {rows, in.heads * in.head_dim});
  const Tensor lse = Tensor::empty(tape.context(), accumulation_type(out.value.dtype()),
                                   {in.batch, in.heads, rows / in.batch});
  const kernels::Attention arguments = arguments_of(in, mask, out.value.data(), lse.data());
  if (const auto quantised = quantised_result(tape, in, arguments)) {
    kernels::fp8_attention(tape.launch(), {arguments, quantised->quantize});
    out.codes = quantised->codes;
  } else {
    kernels::attention(tape.launch(), arguments);
  }
  tape.record("attention", out, [&tape, in, mask, lse, out_value = out.value, d_out = out.gradient] {
    launch_attention_backward(tape, in, mask, out_value, lse, d_out->tensor);
  });
  return out;
}

}  // namespace perceiver::ops
