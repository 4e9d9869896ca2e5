// Attention problems for tests of the CUDA kernels, their results on the CPU in f64, and those of a plain
// bf16 implementation (f32 scores, probabilities and results rounded to bf16).
#pragma once

#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "kernels/attention.h"

namespace perceiver::testing {

using kernels::AttentionKernel;

inline float rounded_to_bf16(double value) {
  return __bfloat162float(__float2bfloat16(static_cast<float>(value)));
}

/// Queries, keys and values lie in matrices with columns that belong to nobody on either side: one matrix
/// [rows, 3C + gaps] where `packed`, else one of queries and one of keys and values.
struct AttentionProblem {
  int64_t batch = 2, heads = 2, queries = 70, keys = 150, head_dim = 64;
  DType type = DType::bf16;
  AttentionKernel kernel = AttentionKernel::automatic;
  bool packed = false;
  bool self_visible = false;
  std::vector<int32_t> first = {}, limit = {};  // first: may be empty
  std::vector<uint8_t> key_mask = {};           // may be empty
  double magnitude = 1;                         // of queries and keys
  int64_t bands = 0, rotated_heads = 0;         // of gradients
  std::vector<double> q_matrix = {}, kv_matrix = {}, d_out = {};

  int64_t width() const { return heads * head_dim; }
  int64_t gap() const { return type == DType::bf16 && head_dim % 8 == 0 ? 8 : 3; }
  int64_t q_stride() const { return packed ? 3 * width() + 4 * gap() : width() + 2 * gap(); }
  int64_t kv_stride() const { return packed ? q_stride() : 2 * width() + 3 * gap(); }
  int64_t q_column() const { return gap(); }
  int64_t k_column() const { return packed ? width() + 2 * gap() : gap(); }
  int64_t v_column() const { return k_column() + width() + gap(); }
  int64_t out_stride() const { return width() + gap(); }

  /// Latents at the end of the keys: query i sees the keys up to its own.
  AttentionProblem& causal() {
    limit.clear();
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < queries; ++i)
        limit.push_back(static_cast<int32_t>(std::max<int64_t>(0, keys - queries + i + 1)));
    return *this;
  }

  AttentionProblem& mask(double hidden, unsigned seed = 3) {
    std::mt19937 random(seed);
    key_mask.resize(batch * keys);
    for (uint8_t& m : key_mask) m = std::uniform_real_distribution<>(0, 1)(random) < hidden ? 0 : 1;
    return *this;
  }

  AttentionProblem& fill(unsigned seed = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<> normal;
    const auto draw = [&](int64_t count, double factor) {
      std::vector<double> values(count);
      for (double& v : values) {
        v = static_cast<float>(factor * normal(random));
        if (type == DType::bf16) v = rounded_to_bf16(v);
      }
      return values;
    };
    q_matrix = draw(batch * queries * q_stride(), magnitude);
    kv_matrix = packed ? q_matrix : draw(batch * keys * kv_stride(), magnitude);
    if (magnitude != 1 && !packed)  // values stay of ordinary size
      for (int64_t row = 0; row < batch * keys; ++row)
        for (int64_t c = 0; c < width(); ++c) {
          double& v = kv_matrix[row * kv_stride() + v_column() + c];
          v = type == DType::bf16 ? rounded_to_bf16(v / magnitude) : static_cast<float>(v / magnitude);
        }
    d_out = draw(batch * queries * out_stride(), 1);
    return *this;
  }

  double q(int64_t b, int64_t h, int64_t i, int64_t c) const {
    return q_matrix[(b * queries + i) * q_stride() + q_column() + h * head_dim + c];
  }
  double key(int64_t b, int64_t h, int64_t n, int64_t c) const {
    return kv_matrix[(b * keys + n) * kv_stride() + k_column() + h * head_dim + c];
  }
  double value(int64_t b, int64_t h, int64_t n, int64_t c) const {
    return kv_matrix[(b * keys + n) * kv_stride() + v_column() + h * head_dim + c];
  }
  double d_out_at(int64_t b, int64_t h, int64_t i, int64_t c) const {
    return d_out[(b * queries + i) * out_stride() + h * head_dim + c];
  }
  /// Positions of rows, some negative, and angles for them.
  std::vector<int32_t> positions(int64_t rows) const {
    std::vector<int32_t> all;
    for (int64_t r = 0; r < batch * rows; ++r)
      all.push_back(static_cast<int32_t>(r * 7 % kPositions) * (r % 5 == 0 ? -1 : 1));
    return all;
  }
  template <typename T>
  std::vector<T> angles(bool cosines) const {
    std::vector<T> all;
    for (int64_t i = 0; i < kPositions * bands; ++i) {
      const float angle = 0.37f * static_cast<float>(i);
      all.push_back(static_cast<T>(cosines ? std::cos(angle) : std::sin(angle)));
    }
    return all;
  }
  kernels::AttentionRotary rotation(const int32_t* at, const void* cosine, const void* sine) const {
    if (bands == 0) return {};
    return {.positions = at, .cosine = cosine, .sine = sine, .bands = bands, .heads = rotated_heads};
  }
  static constexpr int64_t kPositions = 61;

  bool visible(int64_t b, int64_t i, int64_t n) const {
    if (n < (first.empty() ? 0 : first[b]) || n >= limit[b * queries + i]) return false;
    return key_mask.empty() || key_mask[b * keys + n] != 0 || (self_visible && n == i);
  }

  /// Without the pointers to matrices.
  kernels::Attention arguments() const {
    kernels::Attention k{};
    k.type = type;
    k.batch = batch;
    k.heads = heads;
    k.queries = queries;
    k.keys = keys;
    k.head_dim = head_dim;
    k.q_stride = q_stride();
    k.kv_stride = kv_stride();
    k.self_visible = self_visible;
    k.out_stride = out_stride();
    k.kernel = kernel;
    return k;
  }
};

/// Compact: [batch * queries, C], [batch, heads, queries], [batch * keys, C].
struct AttentionResult {
  std::vector<double> out, lse, d_q, d_k, d_v;
};

inline std::vector<double> matrix_columns(const std::vector<double>& matrix, int64_t stride, int64_t column,
                                          int64_t width) {
  std::vector<double> block;
  for (size_t row = 0; row < matrix.size(); row += stride)
    block.insert(block.end(), matrix.begin() + row + column, matrix.begin() + row + column + width);
  return block;
}

inline AttentionResult attention_on_cpu(const AttentionProblem& p) {
  kernels::Attention k = p.arguments();
  k.type = DType::f64;
  std::vector<double> out(p.batch * p.queries * p.out_stride()), lse(p.batch * p.heads * p.queries);
  k.q = p.q_matrix.data() + p.q_column();
  k.k = p.kv_matrix.data() + p.k_column();
  k.v = p.kv_matrix.data() + p.v_column();
  k.first = p.first.empty() ? nullptr : p.first.data();
  k.limit = p.limit.data();
  k.key_mask = p.key_mask.empty() ? nullptr : p.key_mask.data();
  k.out = out.data();
  k.lse = lse.data();
  kernels::cpu::attention(k);
  std::vector<double> d_q(p.q_matrix.size()), d_kv(p.kv_matrix.size());
  const std::vector<int32_t> q_positions = p.positions(p.queries), k_positions = p.positions(p.keys);
  const std::vector<double> cosine = p.angles<double>(true), sine = p.angles<double>(false);
  kernels::cpu::attention_backward({.forward = k,
                                    .d_out = p.d_out.data(),
                                    .d_q = d_q.data() + p.q_column(),
                                    .d_k = d_kv.data() + p.k_column(),
                                    .d_v = d_kv.data() + p.v_column(),
                                    .q_rotary = p.rotation(q_positions.data(), cosine.data(), sine.data()),
                                    .k_rotary = p.rotation(k_positions.data(), cosine.data(), sine.data())});
  return {matrix_columns(out, p.out_stride(), 0, p.width()), lse,
          matrix_columns(d_q, p.q_stride(), p.q_column(), p.width()),
          matrix_columns(d_kv, p.kv_stride(), p.k_column(), p.width()),
          matrix_columns(d_kv, p.kv_stride(), p.v_column(), p.width())};
}

/// The inverse rotation of a compact gradient, in bf16.
inline void rotate_gradient_back(const AttentionProblem& p, const std::vector<int32_t>& positions,
                                 std::vector<double>& gradient) {
  const std::vector<float> cosine = p.angles<float>(true), sine = p.angles<float>(false);
  for (size_t row = 0; row < positions.size(); ++row)
    for (int64_t h = 0; h < p.rotated_heads; ++h)
      for (int64_t band = 0; band < p.bands; ++band) {
        double* pair = gradient.data() + static_cast<int64_t>(row) * p.width() + h * p.head_dim + 2 * band;
        const int64_t at = std::abs(positions[row]) * p.bands + band;
        const double c = cosine[at], s = positions[row] < 0 ? sine[at] : -sine[at];
        const double even = pair[0], odd = pair[1];
        pair[0] = rounded_to_bf16(even * c - odd * s);
        pair[1] = rounded_to_bf16(odd * c + even * s);
      }
}

/// The plain bf16 implementation.
inline AttentionResult plain_attention(const AttentionProblem& p) {
  const int64_t c_all = p.width(), d = p.head_dim;
  AttentionResult r{std::vector<double>(p.batch * p.queries * c_all),
                    {},
                    std::vector<double>(p.batch * p.queries * c_all),
                    std::vector<double>(p.batch * p.keys * c_all),
                    std::vector<double>(p.batch * p.keys * c_all)};
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t h = 0; h < p.heads; ++h) {
      std::vector<float> d_k(p.keys * d), d_v(p.keys * d), prob(p.keys);
      for (int64_t i = 0; i < p.queries; ++i) {
        float largest = -INFINITY, sum = 0;
        for (int64_t n = 0; n < p.keys; ++n) {
          float s = -INFINITY;
          if (p.visible(b, i, n)) {
            s = 0;
            for (int64_t c = 0; c < d; ++c) s += static_cast<float>(p.q(b, h, i, c) * p.key(b, h, n, c));
            s *= scale;
          }
          prob[n] = s;
          largest = std::max(largest, s);
        }
        if (largest == -INFINITY) continue;
        for (float& s : prob) sum += s = std::exp(s - largest);
        std::vector<float> out(d), d_q(d);
        float delta = 0;
        for (int64_t n = 0; n < p.keys; ++n) {
          prob[n] /= sum;
          for (int64_t c = 0; c < d; ++c)
            out[c] += rounded_to_bf16(prob[n]) * static_cast<float>(p.value(b, h, n, c));
        }
        for (int64_t c = 0; c < d; ++c) {
          const float rounded = rounded_to_bf16(out[c]);
          r.out[(b * p.queries + i) * c_all + h * d + c] = rounded;
          delta += rounded * static_cast<float>(p.d_out_at(b, h, i, c));
        }
        for (int64_t n = 0; n < p.keys; ++n) {
          if (prob[n] == 0) continue;
          float dp = 0;
          for (int64_t c = 0; c < d; ++c)
            dp += static_cast<float>(p.d_out_at(b, h, i, c) * p.value(b, h, n, c));
          const float ds = rounded_to_bf16(prob[n] * (dp - delta)), rounded = rounded_to_bf16(prob[n]);
          for (int64_t c = 0; c < d; ++c) {
            d_v[n * d + c] += rounded * static_cast<float>(p.d_out_at(b, h, i, c));
            d_k[n * d + c] += ds * static_cast<float>(p.q(b, h, i, c));
            d_q[c] += ds * static_cast<float>(p.key(b, h, n, c));
          }
        }
        for (int64_t c = 0; c < d; ++c)
          r.d_q[(b * p.queries + i) * c_all + h * d + c] = rounded_to_bf16(d_q[c] * scale);
      }
      for (int64_t n = 0; n < p.keys; ++n)
        for (int64_t c = 0; c < d; ++c) {
          r.d_k[(b * p.keys + n) * c_all + h * d + c] = rounded_to_bf16(d_k[n * d + c] * scale);
          r.d_v[(b * p.keys + n) * c_all + h * d + c] = rounded_to_bf16(d_v[n * d + c]);
        }
    }
  rotate_gradient_back(p, p.positions(p.queries), r.d_q);
  rotate_gradient_back(p, p.positions(p.keys), r.d_k);
  return r;
}

struct AttentionErrors {
  double largest = 0, rms = 0;
  double size = 0, peak = 0;  // root mean square and largest magnitude of what was expected
};

/// Infinities must agree; NaN gives infinite errors.
inline AttentionErrors attention_errors(const std::vector<double>& actual,
                                        const std::vector<double>& expected) {
  AttentionErrors e;
  EXPECT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    double error = actual[i] == expected[i] ? 0 : std::abs(actual[i] - expected[i]);
    if (std::isnan(error)) error = INFINITY;
    e.largest = std::max(e.largest, error);
    e.rms += error * error;
    if (!std::isfinite(expected[i])) continue;
    e.size += expected[i] * expected[i];
    e.peak = std::max(e.peak, std::abs(expected[i]));
  }
  const double count = static_cast<double>(std::max<size_t>(1, expected.size()));
  e.rms = std::sqrt(e.rms / count);
  e.size = std::sqrt(e.size / count);
  return e;
}

}  // namespace perceiver::testing
