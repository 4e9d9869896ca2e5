#include "perceiver/experimental/layers.h"

namespace perceiver {

void declare_norm(ParameterStore& store, ops::NormParameters& norm, const std::string& name,
                  int64_t channels) {
  store.declare(norm.scale, name + ".scale", {channels}, {.kind = Initializer::ones});
  store.declare(norm.offset, name + ".offset", {channels}, {.kind = Initializer::zeros});
}

void declare_linear(ParameterStore& store, ops::LinearParameters& linear, const std::string& name, int64_t in,
                    int64_t out, Initializer weight, bool bias) {
  store.declare(linear.weight, name + ".weight", {out, in}, {.kind = weight});
  if (bias) store.declare(linear.bias, name + ".bias", {out}, {.kind = Initializer::zeros});
}

void Mlp::declare(ParameterStore& store, const std::string& name, int64_t channels, int64_t widening,
                  Activation activation, bool bias) {
  activation_ = activation;
  declare_linear(store, first_, name + ".0", channels, widening * channels, Initializer::fan_in, bias);
  declare_linear(store, second_, name + ".1", widening * channels, channels, Initializer::fan_in, bias);
}

Variable Mlp::forward(Tape& tape, const Variable& x, const Variable& residual) const {
  return ops::feed_forward(tape, x, first_, activation_, second_, residual);
}

}  // namespace perceiver
