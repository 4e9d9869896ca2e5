#include <cmath>
#include <vector>

#include "base/check.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {
namespace {

/// Element i of `bands` evenly spaced numbers from 0 to `bands`, both included (docs/model.md, "Positions").
double band(int64_t bands, int64_t i) {
  return bands == 1 ? 0
                    : static_cast<double>(bands) * static_cast<double>(i) / static_cast<double>(bands - 1);
}

/// How many positions turn each pair by one radian.
std::vector<double> periods(int64_t bands, int64_t rotated, double wavelength) {
  std::vector<double> result;
  for (int64_t i = 0; i < bands; ++i)
    result.push_back(std::pow(wavelength, 2.0 / static_cast<double>(rotated) * band(bands, i)));
  return result;
}

/// The same with a base instead of a longest wavelength, computed in f32 step by step, as PyTorch models do
/// it, whose checkpoints hold the result: the double nearest to the formula would be another number.
std::vector<double> periods_of_base(int64_t bands, int64_t rotated, double base) {
  std::vector<double> result;
  for (int64_t i = 0; i < bands; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotated);
    const auto power = static_cast<float>(std::pow(base, static_cast<double>(exponent)));
    result.push_back(1.0 / static_cast<double>(1.0f / power));
  }
  return result;
}

template <typename T>
void fill_angles(const RotaryTable& table, const std::vector<double>& period, int64_t positions) {
  std::vector<T> cosine, sine;
  cosine.reserve(static_cast<size_t>(positions * table.bands));
  sine.reserve(cosine.capacity());
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < table.bands; ++i) {
      const double angle = static_cast<double>(p) / period[static_cast<size_t>(i)];
      cosine.push_back(static_cast<T>(std::cos(angle)));
      sine.push_back(static_cast<T>(std::sin(angle)));
    }
  }
  table.cosine.copy_from_host(std::as_bytes(std::span<const T>(cosine)));
  table.sine.copy_from_host(std::as_bytes(std::span<const T>(sine)));
}

}  // namespace

RotaryTable make_rotary_table(DeviceContext& context, DType type, int64_t positions, int64_t heads,
                              int64_t head_dim, const RotaryOptions& options) {
  if (positions < 1 || heads < 1 || head_dim < 1)
    throw_user("rotary table: {} positions, {} heads, {} channels per head; each must be at least 1",
               positions, heads, head_dim);
  if (!(options.fraction >= 0 && options.fraction <= 1 && options.head_fraction >= 0 &&
        options.head_fraction <= 1 && options.max_wavelength >= 0 && (options.base == 0 || options.base > 1)))
    throw_user(
        "rotary table: fractions must be in [0, 1], the wavelength must not be negative, the base 0 or above "
        "1");
  RotaryTable table;
  const bool by_base = options.base > 0;
  // A fraction such as 32 of 48 channels is not exact.
  constexpr double kRounding = 1e-6;
  const double channels = static_cast<double>(head_dim) * options.fraction;
  const auto rotated = by_base ? static_cast<int64_t>(std::floor(channels + kRounding))
                               : 2 * static_cast<int64_t>(std::floor(channels / 2));
  table.bands = (rotated + 1) / 2;
  if (2 * table.bands > head_dim)
    throw_user("rotary table: {} channels of a head are rotated in pairs, but it has {}", rotated, head_dim);
  table.heads = static_cast<int64_t>(std::floor(options.head_fraction * static_cast<double>(heads)));
  if (table.bands == 0) return table;
  const double wavelength =
      options.max_wavelength > 0 ? options.max_wavelength : static_cast<double>(positions);
  const DType wide = accumulation_type(type);
  table.cosine = Tensor::empty(context, wide, {positions, table.bands});
  table.sine = Tensor::empty(context, wide, {positions, table.bands});
  const std::vector<double> period = by_base ? periods_of_base(table.bands, rotated, options.base)
                                             : periods(table.bands, rotated, wavelength);
  if (wide == DType::f64) {
    fill_angles<double>(table, period, positions);
  } else {
    fill_angles<float>(table, period, positions);
  }
  return table;
}

}  // namespace perceiver::ops
