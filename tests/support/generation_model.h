// Models and full passes for tests of generation.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "generate/engine.h"
#include "kernels/backend.h"
#include "perceiver/experimental/host_values.h"
#include "perceiver/special_tokens.h"

namespace perceiver::testing {

inline ModelConfig generation_config() {
  ModelConfig config;
  config.vocabulary = 29;
  config.context_length = 24;
  config.latents = 8;
  config.input_channels = config.latent_channels = 16;
  config.layers = 2;
  config.cross_heads = config.self_heads = 2;
  config.zero_initial_logits = false;
  return config;
}

/// A random model with weights scaled up, so that its predictions depend on every earlier token.
inline std::unique_ptr<PerceiverAR> varied_model(const ModelConfig& config, DType type = DType::f64,
                                                 std::shared_ptr<DeviceContext> context = nullptr,
                                                 uint64_t seed = 3, double scale = 2.2) {
  auto model = std::make_unique<PerceiverAR>(config, context ? context : DeviceContext::cpu(2), type);
  model->parameters().initialize(seed);
  const Tensor& flat = model->parameters().values();
  const std::vector<double> values = host_doubles(flat);
  fill(flat, [&](int64_t i) { return scale * values[static_cast<size_t>(i)]; });
  model->parameters().publish();
  return model;
}

/// Logits after the last of `tokens`, from a pass over the last of them with `latents` latents; `positions`
/// as in Sequence.
inline std::vector<double> recomputed_logits(const PerceiverAR& model, const std::vector<int32_t>& tokens,
                                             int64_t latents, const std::vector<int32_t>& positions = {},
                                             int64_t window = 0) {
  const ModelConfig& config = model.config();
  const int64_t all = static_cast<int64_t>(tokens.size()), axes = config.axes();
  const int64_t length = std::min(all, window > 0 ? window : config.context_length);
  Batch batch;
  batch.resize(1, length, axes);
  batch.lengths[0] = static_cast<int32_t>(length);
  std::copy(tokens.end() - length, tokens.end(), batch.tokens.begin());
  for (int64_t n = 0; n < length; ++n)
    for (int64_t a = 0; a < axes; ++a)
      batch.positions[static_cast<size_t>(n * axes + a)] =
          positions.empty() ? static_cast<int32_t>(n + 1)
                            : positions[static_cast<size_t>((all - length + n) * axes + a)];
  PassOptions options;
  options.latents = latents;
  const Tensor logits = model.logits(model.prepare(batch, options));
  const int64_t vocabulary = config.vocabulary;
  return host_doubles(logits.view(logits.elements() - vocabulary, {vocabulary}));
}

/// Largest difference, relative to the largest expected value.
inline double difference(const std::vector<double>& actual, const std::vector<double>& expected) {
  double largest = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(actual[i] - expected[i]));
    size = std::max(size, std::abs(expected[i]));
  }
  return largest / size;
}

inline int32_t greedy(const std::vector<double>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin() + special_tokens, logits.end()) -
                              logits.begin());
}

inline std::vector<int32_t> prompt_of(int64_t length, uint32_t salt = 0) {
  std::vector<int32_t> tokens{sos_token};
  for (int64_t i = 1; i < length; ++i)
    tokens.push_back(static_cast<int32_t>(3 + (static_cast<uint32_t>(i) * 7 + salt * 5 + 11) % 26));
  return tokens;
}

}  // namespace perceiver::testing
