// For tests of the CPU kernels of generation: values, and attention over KV caches by its definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels/attention.h"

namespace perceiver::testing {

inline std::vector<double> normal(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> distribution;
  std::vector<double> values(count);
  for (double& x : values) x = distribution(generator);
  return values;
}

template <typename T>
std::vector<T> as(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

template <typename T>
constexpr DType kElementType = std::is_same_v<T, double> ? DType::f64 : DType::f32;

/// Cache attention by definition: softmax of all scores at once.
template <typename T>
std::vector<double> defined_attention(const kernels::CacheAttention& k) {
  const int64_t d = k.head_dim, width = k.heads * d;
  std::vector<double> out(static_cast<size_t>(k.slots * k.queries * width), 0);
  for (int64_t row = 0; row < k.slots * k.queries; ++row) {
    const int64_t slot = row / k.queries;
    for (int64_t h = 0; h < k.heads; ++h) {
      std::vector<double> weights;
      double largest = -INFINITY;
      for (int64_t n = 0; n < k.count[slot]; ++n) {
        double score = 0;
        for (int64_t c = 0; c < d; ++c)
          score += static_cast<double>(static_cast<const T*>(k.q)[row * width + h * d + c]) *
                   static_cast<double>(
                       static_cast<const T*>(k.cache)[(slot * k.capacity + n) * 2 * width + h * d + c]);
        weights.push_back(score / std::sqrt(static_cast<double>(d)));
        largest = std::max(largest, weights.back());
      }
      double sum = 0;
      for (double& w : weights) sum += w = std::exp(w - largest);
      for (size_t n = 0; n < weights.size(); ++n)
        for (int64_t c = 0; c < d; ++c)
          out[static_cast<size_t>(row * width + h * d + c)] +=
              weights[n] / sum *
              static_cast<double>(static_cast<const T*>(
                  k.cache)[(slot * k.capacity + static_cast<int64_t>(n)) * 2 * width + width + h * d + c]);
    }
  }
  return out;
}

}  // namespace perceiver::testing
