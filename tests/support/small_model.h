// A model that is small enough for finite differences, random batches for it, and one pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>

#include "model/perceiver_ar.h"
#include "tests/support/gradient_check.h"

namespace perceiver::testing {

inline ModelConfig small_model() {
  ModelConfig config;
  config.vocabulary = 13;
  config.context_length = 12;
  config.latents = 4;
  config.input_channels = 8;
  config.latent_channels = 8;
  config.layers = 2;
  config.cross_heads = config.self_heads = 2;
  config.cross_widening = config.self_widening = 2;
  config.residual_dropout = 0.2;
  config.zero_initial_logits = false;
  return config;
}

/// The options of krasserm/perceiver-io's models (docs/import.md).
inline ModelConfig with_own_latent_keys(ModelConfig config) {
  config.latent_channels = config.input_channels;
  config.query_projection = false;
  config.latent_keys = LatentKeys::latents;
  config.biases = Biases::cross_output;
  config.activation = Activation::gelu_exact;
  config.position_encoding = PositionEncoding::both;
  config.position_table = PositionTable::learned;
  config.rotary_base = 10000;
  config.rotary_layers = 1;
  config.tied_output = true;
  config.output_norm = false;
  config.context_dropout_from = ContextDropout::prefix;
  return config;
}

/// The options of lucidrains/perceiver-ar-pytorch's models: heads wider than the latents, and the context is
/// read several times before the first self-attention.
inline ModelConfig with_repeated_reading(ModelConfig config) {
  config = with_own_latent_keys(config);
  config.extra_cross_attention_after = {-1};
  config.head_channels = config.input_channels / config.self_heads + 2;
  config.rotary_layers = -1;
  config.tied_output = false;
  return config;
}

inline Batch random_batch(const ModelConfig& config, int64_t size, uint32_t seed, bool ragged = true) {
  std::mt19937 generator(seed);
  Batch batch;
  const int64_t columns = config.context_length;
  batch.resize(size, columns, config.axes());
  for (int64_t b = 0; b < size; ++b) {
    const int64_t length =
        ragged ? columns - static_cast<int64_t>(generator() % static_cast<uint32_t>(columns - 1)) : columns;
    batch.lengths[b] = static_cast<int32_t>(b == 0 ? columns : length);
    for (int64_t n = 0; n < batch.lengths[b]; ++n) {
      batch.tokens[b * columns + n] =
          static_cast<int32_t>(3 + generator() % static_cast<uint32_t>(config.vocabulary - 3));
      batch.targets[b * columns + n] =
          static_cast<int32_t>(3 + generator() % static_cast<uint32_t>(config.vocabulary - 3));
      for (int64_t a = 0; a < batch.axes; ++a)
        batch.positions[(b * columns + n) * batch.axes + a] =
            static_cast<int32_t>(a == 0 ? n + 1 : generator() % 3);
    }
  }
  return batch;
}

struct Pass {
  double loss;
  std::vector<double> gradients;
};

inline Pass run(PerceiverAR& model, const Batch& batch, Recompute recompute, bool backward = true,
                PassOptions options = {0, true, {3, 5, 0, 0}}) {
  options.random.device_step = &options.random.step;
  const ModelInputs inputs = model.prepare(batch, options);
  model.parameters().start_gradients();
  Tape tape(model.context(), backward, options.training, options.random);
  ops::LossOptions loss;
  loss.label_smoothing = 0.1;
  loss.z_loss = 1e-2;
  const ops::LossResult result = model.loss(tape, inputs, loss, recompute);
  if (backward) tape.backward();
  if (!backward) return {result.totals.as<double>()[0], {}};
  model.parameters().finish_gradients();
  const Tensor& flat = model.parameters().gradients();
  if (flat.dtype() == DType::f64) return {result.totals.as<double>()[0], flat.to_host<double>()};
  const std::vector<float> narrow = flat.to_host<float>();
  return {result.totals.as<double>()[0], {narrow.begin(), narrow.end()}};
}

/// Finite differences along random directions of all parameters of each tensor.
inline void check_model(const ModelConfig& config) {
  PerceiverAR model(config, DeviceContext::cpu(2), DType::f64);
  model.parameters().initialize(1);
  const Batch batch = random_batch(config, 3, 4);
  const Pass pass = run(model, batch, Recompute::none);
  std::mt19937 generator(2);
  double* values = model.parameters().values().as<double>();
  for (const ParameterInfo& info : model.parameters().infos()) {
    const std::vector<double> kept(values + info.offset, values + info.offset + info.elements());
    std::vector<double> direction(kept.size());
    for (double& d : direction) d = std::normal_distribution<double>()(generator);
    const auto moved = [&](double h) {
      for (size_t i = 0; i < kept.size(); ++i)
        values[info.offset + static_cast<int64_t>(i)] = kept[i] + h * direction[i];
      const double loss = run(model, batch, Recompute::none, false).loss;
      std::copy(kept.begin(), kept.end(), values + info.offset);
      return loss;
    };
    // LayerNorm bends strongly around small values, so the step is small beside them.
    double size = 0;
    for (const double value : kept) size += value * value;
    size = std::sqrt(size / static_cast<double>(kept.size()));
    const double h = 1e-5 * (size > 0 ? std::min(1.0, 2 * size) : 1.0);
    const double measured = (moved(h) - moved(-h)) / (2 * h);
    double expected = 0;
    for (size_t i = 0; i < kept.size(); ++i)
      expected += direction[i] * pass.gradients[static_cast<size_t>(info.offset) + i];
    const bool frozen =
        info.name.starts_with("position_embedding") && config.position_table == PositionTable::random;
    EXPECT_NEAR(expected, frozen ? 0 : measured, 1e-5 * std::max(1.0, std::abs(measured))) << info.name;
  }
}

}  // namespace perceiver::testing
