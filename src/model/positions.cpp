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

template <typename T>
void fill_angles(const ops::RotaryTable& table, double wavelength, int64_t positions, int64_t rotated) {
  std::vector<T> cosine, sine;
  cosine.reserve(static_cast<size_t>(positions * table.bands));
  sine.reserve(cosine.capacity());
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < table.bands; ++i) {
      const double t = linspace(0, static_cast<double>(table.bands), table.bands, i);
      const double angle =
          static_cast<double>(p) / std::pow(wavelength, 2.0 / static_cast<double>(rotated) * t);
      cosine.push_back(static_cast<T>(std::cos(angle)));
      sine.push_back(static_cast<T>(std::sin(angle)));
    }
  }
  table.cosine.copy_from_host(std::as_bytes(std::span<const T>(cosine)));
  table.sine.copy_from_host(std::as_bytes(std::span<const T>(sine)));
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
  ops::RotaryTable table;
  if (config.position_encoding != PositionEncoding::rotary) return table;
  const int64_t rotated =
      2 * static_cast<int64_t>(std::floor(static_cast<double>(head_dim) * config.rotary_fraction / 2));
  table.bands = rotated / 2;
  table.heads = static_cast<int64_t>(std::floor(config.rotary_head_fraction * static_cast<double>(heads)));
  if (table.bands == 0) return table;
  double wavelength =
      config.max_wavelength > 0 ? config.max_wavelength : static_cast<double>(config.context_length);
  if (config.query_offset) wavelength += 1;
  const DType wide = accumulation_type(type);
  table.cosine = Tensor::empty(context, wide, {positions, table.bands});
  table.sine = Tensor::empty(context, wide, {positions, table.bands});
  if (wide == DType::f64) {
    fill_angles<double>(table, wavelength, positions, rotated);
  } else {
    fill_angles<float>(table, wavelength, positions, rotated);
  }
  return table;
}

}  // namespace perceiver
