// For tests of the CPU kernels of generation: values, and attention over KV caches by its definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels/attention.h"
#include "kernels/attention_join.h"

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

/// Cache attention of the first third of the rows and of the rest, joined by their log-sum-exps.
template <typename T>
std::vector<T> attention_in_two(const kernels::CacheAttention& whole) {
  const int64_t width = whole.heads * whole.head_dim, outs = whole.slots * whole.queries * width,
                lses = whole.slots * whole.queries * whole.heads, piece = outs + lses;
  const auto third = static_cast<int32_t>(whole.capacity / 3);
  std::vector<T> parts(static_cast<size_t>(2 * piece), T(77)), out(static_cast<size_t>(outs)),
      lse(static_cast<size_t>(lses));
  for (int64_t p = 0; p < 2; ++p) {
    kernels::CacheAttention k = whole;
    std::vector<int32_t> count(whole.count, whole.count + whole.slots);
    for (int32_t& n : count) n = p == 0 ? std::min(n, third) : std::max(n - third, 0);
    k.count = count.data();
    if (p == 1 && k.cache != nullptr) k.cache = static_cast<const T*>(k.cache) + third * 2 * width;
    if (p == 1 && k.cache == nullptr) k.tokens += third, k.positions += third;
    k.out = parts.data() + p * piece;
    k.lse = parts.data() + p * piece + outs;
    kernels::cpu::cache_attention(k);
  }
  kernels::cpu::attention_join({.type = whole.type,
                                .parts = 2,
                                .batch = whole.slots,
                                .heads = whole.heads,
                                .queries = whole.queries,
                                .head_dim = whole.head_dim,
                                .part_out = parts.data(),
                                .part_lse = parts.data() + outs,
                                .part_bytes = piece * static_cast<int64_t>(sizeof(T)),
                                .out = out.data(),
                                .lse = lse.data()});
  return out;
}

}  // namespace perceiver::testing
