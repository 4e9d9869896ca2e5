#include "model/positions.h"

#include <cmath>
#include <numbers>

#include "base/check.h"

namespace perceiver {
namespace {

double sinusoidal(int64_t channels, int64_t row, int64_t channel) {
  const int64_t half = channels / 2;
  if (channel >= 2 * half) return 0;
  const double scale = half > 1 ? -std::log(10000.0) / static_cast<double>(half - 1) : 0;
  const double angle = static_cast<double>(row) * std::exp(static_cast<double>(channel % half) * scale);
  return channel < half ? std::sin(angle) : std::cos(angle);
}

/// Number i of `count` evenly spaced ones from `first` to `last`, both included.
double linspace(double first, double last, int64_t count, int64_t i) {
  return count == 1 ? first
                    : first + (last - first) * static_cast<double>(i) / static_cast<double>(count - 1);
}

double fourier(int64_t size, int64_t channels, int64_t row, int64_t channel) {
  const int64_t bands = channels / 2;
  if (channel >= 2 * bands) return 0;
  const double position = linspace(-1, 1, size, row);
  const double frequency = linspace(1, static_cast<double>(size) / 2, bands, channel % bands);
  const double angle = std::numbers::pi * frequency * position;
  return channel < bands ? std::sin(angle) : std::cos(angle);
}

}  // namespace

double position_table_value(PositionTable kind, int64_t size, int64_t channels, int64_t row,
                            int64_t channel) {
  PERCEIVER_ASSERT(kind == PositionTable::sinusoidal || kind == PositionTable::fourier);
  if (kind == PositionTable::sinusoidal) return sinusoidal(channels, row, channel);
  return fourier(size, channels, row, channel);
}

ops::RotaryTable make_rotary_table(DeviceContext& context, DType type, const ModelConfig& config,
                                   int64_t heads, int64_t head_dim, int64_t positions) {
  if (!config.rotates()) return {};
  const double wavelength =
      config.max_wavelength > 0 ? config.max_wavelength : static_cast<double>(config.context_length);
  return ops::make_rotary_table(context, type, positions, heads, head_dim,
                                {.fraction = config.rotary_fraction,
                                 .head_fraction = config.rotary_head_fraction,
                                 .max_wavelength = wavelength + (config.query_offset ? 1 : 0),
                                 .base = config.rotary_base});
}

}  // namespace perceiver
