// Position encodings (docs/model.md, "Positions"): fixed tables and rotary angles.
#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/config.h"
#include "perceiver/experimental/ops.h"

namespace perceiver {

/// Element (row, channel) of a fixed position table of `size` rows and `channels` channels: `sinusoidal` or
/// `fourier`.
double position_table_value(PositionTable kind, int64_t size, int64_t channels, int64_t row, int64_t channel);

/// Cosines and sines for positions 0 .. `positions` - 1 of heads of `head_dim` channels. Bands and heads
/// follow `rotary_fraction` and `rotary_head_fraction`; wavelengths are max_wavelength^(i / (bands - 1)),
/// both ends included, or those of `rotary_base`.
ops::RotaryTable make_rotary_table(DeviceContext& context, DType type, const ModelConfig& config,
                                   int64_t heads, int64_t head_dim, int64_t positions);

}  // namespace perceiver
