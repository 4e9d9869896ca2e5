// A small Transformer-XL for tests.
#pragma once

#include "perceiver/config.h"

namespace perceiver::testing {

inline ModelConfig recurrent_config() {
  ModelConfig config;
  config.type = ModelType::transformer_xl;
  config.vocabulary = 29;
  config.context_length = config.latents = 6;
  config.input_channels = config.latent_channels = 16;
  config.layers = 2;
  config.self_heads = 2;
  config.self_widening = 2;
  config.memory_length = 8;
  config.activation = Activation::relu;
  config.residual_dropout = 0;
  config.output_norm = false;
  config.tied_output = true;
  return config;
}

}  // namespace perceiver::testing
