// What a forward pass keeps for backward, counted as the operations do it (src/ops): LayerNorm and
// activations are computed again in backward, so a block keeps q, k, v, the attention's output, the sum with
// the residual stream, the hidden layer before its activation, and its own output.
#include "train/memory_estimate.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include "model/projection.h"

namespace perceiver {
namespace {

/// Counts of elements, as double: products of sizes from a configuration.
struct Shapes {
  double rows;     ///< latents of a micro-batch
  double context;  ///< context tokens of a micro-batch
  double e, z, a;  ///< channels of the embedding, the latents, the cross-attention
  double cross;    ///< cross-attentions
  double layers;
  bool table;      ///< the tables are projected, not the tokens
  double entries;  ///< rows of the tables that are projected
};

Shapes shapes_of(const ModelConfig& model, int64_t examples, DType type, int64_t context_shards) {
  const bool reads = model.type == ModelType::perceiver_ar;
  const int64_t whole = reads ? context_tokens(model, examples, true) : 0;
  const int64_t context = (whole + context_shards - 1) / context_shards;
  Shapes s{};
  s.rows = static_cast<double>(examples * model.latents);
  s.context = static_cast<double>(context);
  s.e = static_cast<double>(model.input_channels);
  s.z = static_cast<double>(model.z_channels());
  s.a = static_cast<double>(model.cross_width());
  s.cross = reads ? 1 + static_cast<double>(model.extra_cross_attention_after.size()) : 0;
  s.layers = static_cast<double>(model.layers);
  s.table = reads && projects_tables(model, context, type);
  s.entries = static_cast<double>(model.vocabulary);
  for (const int64_t size : position_table_sizes(model)) s.entries += static_cast<double>(size);
  return s;
}

/// Backward of an MLP: its hidden layer again, the gradients of that and of both ends.
double mlp_work(const Shapes& s, int64_t widening) {
  return s.rows * s.z * (2 * static_cast<double>(widening) + 2);
}

double self_block(const Shapes& s, const ModelConfig& model) {
  return s.rows * s.z * (6 + static_cast<double>(model.self_widening));
}

/// What is left of a cross-attention block when its attention runs backward.
double cross_attention(const Shapes& s) {
  return s.rows * (2 * s.a + s.z) + 2 * s.a * s.context;
}

double cross_block(const Shapes& s, const ModelConfig& model) {
  return cross_attention(s) + s.rows * s.z * (1 + static_cast<double>(model.cross_widening));
}

/// Backward of the keys and values of a cross-attention: their gradient beside them, then (projecting tokens)
/// the normalised context and its gradients.
double cross_work(const Shapes& s) {
  const double attention = 2 * s.a * s.context + 2 * s.rows * (s.a + s.z);
  if (s.table) return attention + s.entries * (2 * s.e + 2 * s.a);
  return std::max(attention, 2 * s.e * s.context);
}

/// Outputs of the blocks, where they keep nothing else (train.recompute).
double recomputing_blocks(const Shapes& s, Recompute recompute) {
  const double kept = recompute == Recompute::block ? 1 : 2;  // attention_mlp: also the sum between the two
  return kept * (s.layers + s.cross) * s.rows * s.z;
}

/// Logits of a chunk and the gradient of the latents (src/ops/output_loss.cpp).
double output_work(const Shapes& s, const ModelConfig& model, bool gpu) {
  const auto vocabulary = static_cast<double>(model.vocabulary);
  const double chunk = std::max(64.0, (gpu ? 1 << 24 : 1 << 20) / vocabulary);
  return std::min(s.rows, chunk) * vocabulary + s.rows * (2 * s.z + 4);
}

/// Elements that are there all the time: rotary tables, projected tables.
double tables(const Shapes& s, const ModelConfig& model) {
  const double rotary =
      model.rotates()
          ? (s.a / static_cast<double>(model.cross_heads) + s.z / static_cast<double>(model.self_heads)) *
                model.rotary_fraction * static_cast<double>(model.context_length + 3)
          : 0;
  return rotary + (s.table ? s.cross * s.entries * (2 * s.e + 2 * s.a) : 0);
}

/// What a block of a Transformer-XL keeps: keys' inputs, keys and values; q, the attention's output, the two
/// sums, the hidden layer before and after dropout.
double recurrent_elements(const Shapes& s, const Config& config, bool gpu) {
  const ModelConfig& model = config.model;
  const auto w = static_cast<double>(model.self_width()), hidden = static_cast<double>(model.mlp_width());
  const double hiddens = model.residual_dropout > 0 ? 2 : 1;
  const double keys = s.rows / static_cast<double>(model.context_length) *
                      static_cast<double>(model.context_length + model.memory_length);
  const double block = keys * (s.z + 2 * w) + s.rows * (2 * w + 2 * s.z + hiddens * hidden);
  const bool plain = config.train.recompute == Recompute::none;
  const double kept = plain ? s.layers * block : recomputing_blocks(s, config.train.recompute) + block;
  return s.rows * (s.e + s.z) + kept +
         std::max(output_work(s, model, gpu), keys * (s.z + 2 * w) + s.rows * (2 * hidden + 2 * s.z));
}

double activation_elements(const Shapes& s, const Config& config, bool gpu) {
  const ModelConfig& model = config.model;
  if (model.recurrent()) return recurrent_elements(s, config, gpu);
  const double input = s.rows * (s.e + s.z) + (s.table || s.cross == 0 ? 0 : s.e * s.context);
  const double self = self_block(s, model), cross = s.cross > 0 ? cross_block(s, model) : 0;
  const double at_end = s.rows * s.z + mlp_work(s, model.self_widening);
  const bool plain = config.train.recompute == Recompute::none;
  const double kept =
      plain ? s.layers * self + s.cross * cross : recomputing_blocks(s, config.train.recompute);
  // The worst moment: the logits, the backward of the last block, or that of the (first) cross-attention.
  const double output = input + kept + output_work(s, model, gpu);
  const double last = input + kept + at_end + (plain ? 0 : self);
  const double first =
      s.cross > 0 ? input + (plain ? s.cross - 1 : 0) * cross + cross_attention(s) + cross_work(s) : 0;
  return tables(s, model) + std::max({output, last, first});
}

/// Bytes of the transposed 8-bit inputs that the linear layers of the blocks keep (src/ops/fp8_linear.cpp).
double fp8_bytes(const Shapes& s, const Config& config) {
  if (config.train.precision != Precision::fp8 || config.train.recompute != Recompute::none) return 0;
  const ModelConfig& model = config.model;
  const auto hidden =
      static_cast<double>(model.recurrent() ? model.mlp_width() : model.self_widening * model.z_channels());
  const auto cross_hidden = static_cast<double>(model.cross_widening) * s.z;
  const double self = s.rows * (2 * s.z + static_cast<double>(model.self_width()) + hidden);
  const double cross = s.rows * (2 * s.z + s.a + cross_hidden) + (s.table ? 0 : s.e * s.context);
  return s.layers * self + s.cross * cross;
}

int64_t status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field)) return 1024 * std::atoll(line.c_str() + field.size());
  return 0;
}

}  // namespace

MemoryEstimate estimate_memory(const Config& config, const PerceiverAR& model, const Learner& learner) {
  const Learner::Bytes held = learner.bytes();
  MemoryEstimate memory{.weights = held.weights,
                        .gradients = held.gradients,
                        .optimizer = held.optimizer,
                        .average = held.average};
  const Shapes s = shapes_of(config.model, learner.share().count, model.type(), config.train.context_shards);
  const double elements = activation_elements(s, config, model.context().is_cuda());
  memory.activations =
      held.memory +
      static_cast<int64_t>(elements * static_cast<double>(size_of(model.type())) + fp8_bytes(s, config));
  return memory;
}

int64_t resident_bytes() {
  return status_bytes("VmRSS:");
}

int64_t peak_resident_bytes() {
  return status_bytes("VmHWM:");
}

}  // namespace perceiver
