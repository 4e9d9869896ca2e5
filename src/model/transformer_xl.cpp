#include "model/transformer_xl.h"

#include <cmath>
#include <string>
#include <vector>

#include "model/decode_caches.h"
#include "perceiver/experimental/host_values.h"
#include "perceiver/experimental/layers.h"

namespace perceiver {
namespace {

constexpr double kDistanceBase = 10000;
constexpr double kProjectionDeviation = 0.01;

/// dropout(x), elements counted per example; the same for all examples if `examples` is 0.
Variable drop_out(Tape& tape, const Variable& x, double rate, int64_t examples) {
  if (rate <= 0) return x;
  return ops::residual_add(tape, {}, x, {rate, examples > 0 ? x.value.elements() / examples : 0});
}

}  // namespace

Tensor encoded_distances(DeviceContext& context, DType type, int64_t rows, int64_t channels) {
  const Tensor table = Tensor::empty(context, type, {rows, channels});
  const int64_t half = channels / 2;
  fill(table, [&](int64_t element) {
    const int64_t t = element / channels, c = element % channels, i = c < half ? c : c - half;
    const double angle = static_cast<double>(t) * std::pow(kDistanceBase, -2.0 * static_cast<double>(i) /
                                                                              static_cast<double>(channels));
    return c < half ? std::sin(angle) : std::cos(angle);
  });
  return table;
}

void TransformerXL::declare(ParameterStore& store, const ModelConfig& config,
                            const std::function<void()>& start_block) {
  config_ = config;
  const int64_t e = config.input_channels, z = config.z_channels();
  const Initialization projection{.kind = Initializer::truncated_normal, .deviation = kProjectionDeviation};
  if (e != z) store.declare(input_.weight, "embedding.projection.weight", {z, e}, projection);
  const int64_t heads = config.self_heads;
  if (config.shared_biases) biases_.declare(store, "attention", heads, config.self_width() / heads);
  blocks_.resize(static_cast<size_t>(config.layers));
  for (size_t i = 0; i < blocks_.size(); ++i) {
    start_block();
    blocks_[i].declare(store, "self." + std::to_string(i), config);
  }
  start_block();
  if (config.output_norm) declare_norm(store, output_norm_, "output.norm", z);
  if (e != z) store.declare(output_.weight, "output.projection.weight", {e, z}, projection);
}

Variable TransformerXL::embed(Tape& tape, const ModelInputs& inputs, const Variable& token_embedding) const {
  Variable x = ops::embedding(tape, token_embedding, inputs.latent_tokens);
  if (input_.weight.value) x = ops::linear(tape, x, input_);
  x = ops::scaled(tape, x, std::sqrt(static_cast<double>(config_.z_channels())));
  return drop_out(tape, x, config_.residual_dropout, inputs.batch);
}

ops::MemoryRows TransformerXL::memory_of(const ModelInputs& inputs, int64_t layer) const {
  ops::MemoryRows rows{.length = inputs.memory_length, .hidden = {}, .remembered = inputs.remembered};
  if (inputs.memory != nullptr && inputs.memory_length > 0)
    rows.hidden = inputs.memory->layer(inputs.memory->hidden, layer, inputs.first_stream, inputs.batch);
  return rows;
}

Variable TransformerXL::trunk(Tape& tape, const ModelInputs& inputs, const Variable& token_embedding,
                              const std::vector<int64_t>& begin, Recompute recompute,
                              const CacheUse* caches) const {
  tape.enter("input");
  Variable z = embed(tape, inputs, token_embedding);
  RelativePass pass{.batch = inputs.batch,
                    .window = inputs.window,
                    .first_key = inputs.first_key,
                    .dropout = config_.residual_dropout,
                    .attention_dropout = config_.attention_dropout,
                    .recompute = recompute,
                    .shared_biases = &biases_};
  if (inputs.distances)  // no gradient: dropped or not, they are no parameters
    pass.distances =
        Tape::constant(drop_out(tape, Tape::constant(inputs.distances), config_.residual_dropout, 0).value);
  const bool remembers = inputs.memory != nullptr && inputs.memory_length > 0;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    pass.memory = memory_of(inputs, layer);
    if (remembers)
      ops::remember(tape, pass.memory, z.value, inputs.batch,
                    inputs.memory->layer(inputs.memory->next, layer, inputs.first_stream, inputs.batch));
    CachePass cache;
    if (caches != nullptr) {
      cache = caches->of(layer);
      pass.cache = &cache;
      const Tensor& all = caches->caches.relative_positions;
      const Shape rows{all.shape()[1], all.shape()[2]};
      pass.cached_positions = all.view(layer * rows.elements(), rows);
    }
    tape.begin_parameters(begin[i]);
    z = blocks_[i].forward(tape, z, pass);
  }
  tape.begin_parameters(begin.back());
  tape.enter("output");
  if (config_.output_norm) z = ops::layer_norm(tape, z, output_norm_);
  z = drop_out(tape, z, config_.residual_dropout, inputs.batch);
  return output_.weight.value ? ops::linear(tape, z, output_) : z;
}

Tensor TransformerXL::projected_positions(DeviceContext& context, const Tensor& distances) const {
  const int64_t rows = distances.shape()[0], width = config_.self_width();
  const Tensor all = Tensor::empty(context, distances.dtype(), {config_.layers, rows, width});
  for (size_t i = 0; i < blocks_.size(); ++i) {
    Tape tape(context, false);
    const Variable positions = blocks_[i].positions(tape, Tape::constant(distances));
    all.view(static_cast<int64_t>(i) * rows * width, {rows, width}).copy_from(positions.value);
  }
  return all;
}

std::vector<ops::LinearParameters*> TransformerXL::linears() {
  std::vector<ops::LinearParameters*> all;
  if (input_.weight.value) all.push_back(&input_);
  if (output_.weight.value) all.push_back(&output_);
  for (RelativeBlock& block : blocks_)
    for (ops::LinearParameters* linear : block.linears()) all.push_back(linear);
  return all;
}

}  // namespace perceiver
