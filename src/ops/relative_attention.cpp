#include "ops/relative_attention.h"

#include "base/check.h"
#include "kernels/relative_attention.h"
#include "ops/checks.h"
#include "ops/dropout.h"

namespace perceiver::ops {
namespace {

void check_relative_attention(const Tape& tape, const RelativeAttentionInputs& in) {
  constexpr const char* kName = "relative_attention";
  const Tensor& q = in.q.value;
  check_activation(tape, kName, "q", q);
  const int64_t width = in.heads * in.head_dim;
  if (in.heads < 1 || in.head_dim < 1 || q.shape()[1] != width)
    throw_user("relative_attention: {} heads of {} channels, but q is {}", in.heads, in.head_dim,
               q.shape().text());
  check_columns(tape, kName, "kv", in.kv.value, q.dtype(), 2 * width);
  check_columns(tape, kName, "positions", in.positions.value, q.dtype(), width);
  check_columns(tape, kName, "content_bias", in.content_bias.value, q.dtype(), in.head_dim);
  check_columns(tape, kName, "position_bias", in.position_bias.value, q.dtype(), in.head_dim);
  if (in.content_bias.value.elements() != width || in.position_bias.value.elements() != width)
    throw_user("relative_attention: content_bias {} and position_bias {} are not of {} heads",
               in.content_bias.shape().text(), in.position_bias.shape().text(), in.heads);
  const int64_t queries = q.shape()[0], keys = in.kv.shape()[0];
  if (in.batch < 1 || queries % in.batch != 0 || keys % in.batch != 0 || keys < queries)
    throw_user("relative_attention: the rows of q {} and kv {} are not {} examples with a key for each query",
               q.shape().text(), in.kv.shape().text(), in.batch);
  if (in.positions.shape()[0] < 1 || in.window < 0)
    throw_user("relative_attention: {} distances, a window of {}", in.positions.shape()[0], in.window);
  if (!in.first_key) return;
  check_integers(tape, kName, "first_key", in.first_key, in.batch);
  check_range(tape, kName, "first_key", in.first_key, in.batch, 0, keys / in.batch);
}

kernels::RelativeAttention arguments_of(const RelativeAttentionInputs& in, const kernels::DropoutMask& mask,
                                        const Tensor& out, const Tensor& lse) {
  const Tensor &q = in.q.value, &kv = in.kv.value;
  const int64_t width = in.heads * in.head_dim;
  return {.type = q.dtype(),
          .batch = in.batch,
          .heads = in.heads,
          .queries = q.shape()[0] / in.batch,
          .keys = kv.shape()[0] / in.batch,
          .head_dim = in.head_dim,
          .q = q.data(),
          .q_stride = width,
          .k = kv.data(),
          .v = static_cast<const std::byte*>(kv.data()) + static_cast<size_t>(width) * size_of(kv.dtype()),
          .kv_stride = 2 * width,
          .content_bias = in.content_bias.value.data(),
          .position_bias = in.position_bias.value.data(),
          .positions = in.positions.value.data(),
          .distances = in.positions.shape()[0],
          .window = in.window,
          .first = in.first_key.as<int32_t>(),
          .dropout = mask,
          .out = out.data(),
          .out_stride = width,
          .lse = lse.data()};
}

/// Memory for a gradient that the kernel overwrites: its own place, if nothing else wrote there.
Tensor place_of(Tape& tape, const Variable& x, const Tensor& value) {
  const bool own = x.gradient && !x.gradient->written && !x.gradient->preallocated;
  return own ? tape.target(x).tensor : Tensor::empty(tape.context(), value.dtype(), value.shape());
}

void pass_on(Tape& tape, const Variable& x, const Tensor& gradient) {
  if (x.gradient && x.gradient->tensor.data() != gradient.data()) tape.give(x, gradient);
}

/// The gradient of a bias, which the kernel adds to where others wrote before.
GradientTarget bias_target(Tape& tape, const Variable& bias) {
  GradientTarget target = tape.target(bias);
  if (!target)
    target.tensor = Tensor::empty(tape.context(), accumulation_type(bias.value.dtype()), bias.shape());
  return target;
}

void relative_attention_gradients(Tape& tape, const RelativeAttentionInputs& in,
                                  const kernels::RelativeAttention& forward, const Tensor& d_out) {
  const Tensor d_q = place_of(tape, in.q, in.q.value), d_kv = place_of(tape, in.kv, in.kv.value),
               d_positions = place_of(tape, in.positions, in.positions.value);
  const GradientTarget d_content = bias_target(tape, in.content_bias),
                       d_position = bias_target(tape, in.position_bias);
  const int64_t bytes = kernels::relative_attention_backward_scratch(tape.launch(), forward);
  const Tensor scratch = bytes > 0 ? Tensor::empty(tape.context(), DType::u8, {bytes}) : Tensor();
  const auto half = static_cast<size_t>(in.heads * in.head_dim) * size_of(d_kv.dtype());
  kernels::relative_attention_backward(tape.launch(), {.forward = forward,
                                                       .d_out = d_out.data(),
                                                       .d_q = d_q.data(),
                                                       .d_k = d_kv.data(),
                                                       .d_v = static_cast<std::byte*>(d_kv.data()) + half,
                                                       .d_content_bias = d_content.tensor.data(),
                                                       .d_position_bias = d_position.tensor.data(),
                                                       .accumulate_content_bias = d_content.accumulate,
                                                       .accumulate_position_bias = d_position.accumulate,
                                                       .d_positions = d_positions.data(),
                                                       .scratch = scratch.data()});
  pass_on(tape, in.q, d_q);
  pass_on(tape, in.kv, d_kv);
  pass_on(tape, in.positions, d_positions);
}

}  // namespace

Variable relative_attention(Tape& tape, const RelativeAttentionInputs& in) {
  check_relative_attention(tape, in);
  const int64_t rows = in.q.shape()[0], queries = rows / in.batch, keys = in.kv.shape()[0] / in.batch;
  const kernels::DropoutMask mask = next_mask(tape, {in.dropout, in.heads * queries * keys});
  const Variable out = tape.result(in.q.value.dtype(), in.q.shape());
  const Tensor lse =
      Tensor::empty(tape.context(), accumulation_type(out.value.dtype()), {in.batch, in.heads, queries});
  kernels::relative_attention(tape.launch(), arguments_of(in, mask, out.value, lse));
  tape.record("relative_attention", out, [&tape, in, mask, lse, value = out.value, d_out = out.gradient] {
    relative_attention_gradients(tape, in, arguments_of(in, mask, value, lse), d_out->tensor);
  });
  return out;
}

}  // namespace perceiver::ops
