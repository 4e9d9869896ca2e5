// Parameter updates and the moving average of the weights. Elementwise work runs over the tiles of the
// parameter table, and the order of sums depends on the table alone: results are bitwise the same for any
// number of threads.
#include <Eigen/Core>

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "kernels/adam.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/elementwise.h"
#include "kernels/optimizer.h"

namespace perceiver::kernels::cpu {
namespace {

// Elements of a flat buffer processed together, few enough to stay in the L1 cache from one expression to the
// next.
constexpr int64_t kBlock = 4096;
constexpr double kAverageWarmup = 10;

template <typename T>
using Array = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
template <typename T>
using ConstArray = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;

template <typename T>
Array<T> slice(void* base, int64_t begin, int64_t elements) {
  return {static_cast<T*>(base) + begin, elements};
}

template <typename T>
ConstArray<T> slice(const void* base, int64_t begin, int64_t elements) {
  return {static_cast<const T*>(base) + begin, elements};
}

template <typename Body>
void for_each_tile(const ParameterTile* tiles, int64_t count, Body&& body) {
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) body(tile, tiles[tile]);
  });
}

/// One tile of the buffers that Adam and LAMB read and write.
template <typename T>
struct AdamTile {
  Array<T> parameters, first_moment, second_moment;
  ConstArray<T> gradients;

  template <typename Arguments>
  AdamTile(const Arguments& k, const ParameterTile& tile)
      : parameters(slice<T>(k.parameters, tile.begin, tile.elements)),
        first_moment(slice<T>(k.first_moment, tile.begin, tile.elements)),
        second_moment(slice<T>(k.second_moment, tile.begin, tile.elements)),
        gradients(slice<T>(k.gradients, tile.begin, tile.elements)) {}
};

template <typename T>
void adam_tile(const Adam& k, const AdamScalars<T>& s, const ParameterTile& tile) {
  auto [p, m, v, g] = AdamTile<T>(k, tile);
  const T decay = static_cast<T>(tile.weight_decay);
  if (decay > 0 && !k.decoupled) {
    s.update_moments(m, v, s.scale * g + decay * p);
  } else {
    s.update_moments(m, v, s.scale * g);
  }
  if (decay > 0 && k.decoupled) p *= 1 - s.rate * decay;
  p -= s.rate * s.direction(m, v);
}

/// bf16, as it is in memory.
float widened(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

/// x rounded to bf16, down or up: `bits` are 16 random ones.
uint16_t rounded_at_random(float x, uint32_t bits) {
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(x) + bits) >> 16);
}

struct FirstMomentTag;
struct SecondMomentTag;

/// The same for moments in bf16, widened in a buffer of the tile's size.
template <typename T>
void adam_tile_of_bf16(const Adam& k, const AdamScalars<T>& s, ParameterTile tile) {
  auto* const first = static_cast<uint16_t*>(k.first_moment) + tile.begin;
  auto* const second = static_cast<uint16_t*>(k.second_moment) + tile.begin;
  const auto size = static_cast<size_t>(tile.elements);
  T* const m = scratch<FirstMomentTag, T>(size);
  T* const v = scratch<SecondMomentTag, T>(size);
  std::transform(first, first + size, m, widened);
  std::transform(second, second + size, v, widened);
  Adam local = k;
  local.parameters = static_cast<T*>(k.parameters) + tile.begin;
  local.gradients = static_cast<const T*>(k.gradients) + tile.begin;
  local.first_moment = m;
  local.second_moment = v;
  const int64_t begin = k.first_element + tile.begin;
  tile.begin = 0;
  adam_tile<T>(local, s, tile);
  PhiloxBlock bits{};
  for (size_t i = 0; i < size; ++i) {
    const auto element = static_cast<uint64_t>(begin) + i;
    if (i == 0 || element % 4 == 0)
      bits = rounding_bits(static_cast<int64_t>(element / 4), static_cast<uint64_t>(k.scalars->update));
    first[i] = rounded_at_random(static_cast<float>(m[i]), bits[element % 4] & 0xffff);
    second[i] = rounded_at_random(static_cast<float>(v[i]), bits[element % 4] >> 16);
  }
}

template <typename T>
void sgd_tile(const Sgd& k, const ParameterTile& tile) {
  const T rate = static_cast<T>(k.scalars->learning_rate), scale = static_cast<T>(k.scalars->gradient_scale);
  const T decay = static_cast<T>(tile.weight_decay), momentum = static_cast<T>(k.momentum);
  auto p = slice<T>(k.parameters, tile.begin, tile.elements);
  const auto g = scale * slice<T>(k.gradients, tile.begin, tile.elements) + decay * p;
  if (k.momentum_buffer == nullptr) {
    p -= rate * g;
    return;
  }
  auto b = slice<T>(k.momentum_buffer, tile.begin, tile.elements);
  b = momentum * b + g;
  if (k.nesterov) {
    p -= rate * (g + momentum * b);
  } else {
    p -= rate * b;
  }
}

/// Updates the moments and stores the squared norms of parameter and direction in the tile's entries of
/// `norms`.
template <typename T>
void lamb_measure(const Lamb& k, const AdamScalars<T>& s, int64_t index) {
  const ParameterTile& tile = k.tiles[index];
  auto [p, m, v, g] = AdamTile<T>(k, tile);
  s.update_moments(m, v, s.scale * g);
  const auto u = s.direction(m, v) + static_cast<T>(tile.weight_decay) * p;
  k.norms[2 * index] = p.template cast<double>().square().sum();
  k.norms[2 * index + 1] = u.template cast<double>().square().sum();
}

/// Replaces the squared norms of a parameter's tiles with its trust ratio.
void lamb_ratios(const Lamb& k) {
  for (int64_t first = 0, last = 0; first < k.tile_count; first = last) {
    double parameter = 0, direction = 0;
    for (last = first; last < k.tile_count && k.tiles[last].parameter == k.tiles[first].parameter; ++last) {
      parameter += k.norms[2 * last];
      direction += k.norms[2 * last + 1];
    }
    const bool scaled = k.tiles[first].layerwise && parameter > 0 && direction > 0;
    const double ratio = scaled ? std::sqrt(parameter / direction) : 1;
    for (int64_t tile = first; tile < last; ++tile) k.norms[2 * tile] = ratio;
  }
}

template <typename T>
void lamb_apply(const Lamb& k, const AdamScalars<T>& s, int64_t index) {
  const ParameterTile& tile = k.tiles[index];
  auto [p, m, v, g] = AdamTile<T>(k, tile);
  const T rate = static_cast<T>(k.scalars->learning_rate * k.norms[2 * index]);
  p -= rate * (s.direction(m, v) + static_cast<T>(tile.weight_decay) * p);
}

}  // namespace

void step_control(const StepControl& k) {
  StepScalars& scalars = *k.scalars;
  const bool finite = std::isfinite(*k.sum_of_squares) && std::isfinite(*k.loss);
  scalars.gradient_norm = std::sqrt(*k.sum_of_squares);
  scalars.finite = finite;
  if (!finite) return;
  scalars.update += 1;
  const bool clips = k.clip_norm > 0 && scalars.gradient_norm > k.clip_norm;
  scalars.gradient_scale = clips ? k.clip_norm / scalars.gradient_norm : 1;
  scalars.average_decay = std::min(k.ema_decay, (1 + scalars.update) / (kAverageWarmup + scalars.update));
}

void adam(const Adam& k) {
  PERCEIVER_ASSERT(k.rounded == nullptr);  // on the CPU, passes read the parameters themselves
  if (!k.scalars->finite) return;
  with_type(k.type, [&]<typename T>() {
    const AdamScalars<T> scalars = adam_scalars<T>(k);
    for_each_tile(k.tiles, k.tile_count, [&](int64_t, const ParameterTile& tile) {
      if (k.moment_type == DType::bf16) return adam_tile_of_bf16<T>(k, scalars, tile);
      adam_tile<T>(k, scalars, tile);
    });
  });
}

void sgd(const Sgd& k) {
  if (!k.scalars->finite) return;
  with_type(k.type, [&]<typename T>() {
    for_each_tile(k.tiles, k.tile_count, [&](int64_t, const ParameterTile& tile) { sgd_tile<T>(k, tile); });
  });
}

void lamb(const Lamb& k) {
  if (!k.scalars->finite) return;
  with_type(k.type, [&]<typename T>() {
    const AdamScalars<T> scalars = adam_scalars<T>(k);
    for_each_tile(k.tiles, k.tile_count,
                  [&](int64_t index, const ParameterTile&) { lamb_measure<T>(k, scalars, index); });
    lamb_ratios(k);
    for_each_tile(k.tiles, k.tile_count,
                  [&](int64_t index, const ParameterTile&) { lamb_apply<T>(k, scalars, index); });
  });
}

void moving_average(const MovingAverage& k) {
  if (!k.scalars->finite) return;
  with_type(k.type, [&]<typename T>() {
    const T rest = static_cast<T>(1 - k.scalars->average_decay);
    const int64_t blocks = (k.elements + kBlock - 1) / kBlock;
    parallel_for(blocks, 4, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kBlock, elements = std::min(kBlock, k.elements - begin);
        auto average = slice<T>(k.average, begin, elements);
        average += rest * (slice<T>(k.values, begin, elements) - average);
      }
    });
  });
}

}  // namespace perceiver::kernels::cpu
