// A plain reference for the result of a fused decode step.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <numeric>
#include <vector>

#include "base/processors.h"
#include "base/worker_pool.h"
#include "tests/support/decode_problem.h"

namespace perceiver::testing {

/// A step for one slot in f64, rounded where the kernel rounds: inputs of products to bf16, the caches to
/// their type. Writes the slot's new rows, or its token and position, to the caches of `step`, whose pointers
/// are to host memory. Returns the logits.
class DecodeReference {
 public:
  using Row = std::vector<double>;

  DecodeReference(const DecodeStep& step, int64_t slot) : k_(step), slot_(slot) {}

  Row run() {
    Row x(static_cast<size_t>(k_.input_channels));
    add_row(x, k_.token_embedding, k_.token[slot_]);
    for (int t = 0; t < k_.position_tables; ++t)
      add_row(x, k_.position_table[t], k_.table_position[slot_ * k_.position_tables + t]);
    round(x);
    Row z = product(k_.query, k_.latent_channels, x);
    for (int i = 0; i < k_.query_layers; ++i) {
      z = product(k_.query_mlp[i], k_.latent_channels, z);
      for (double& v : z) v = activate(k_.query_activation, v);
    }
    int64_t next = 0;
    z = cross_block(0, z, x);
    for (int64_t l = 0; l < k_.layers; ++l) {
      z = self_block(l, z);
      if (next + 1 < k_.cross_blocks && k_.cross_after[next] == l) z = cross_block(++next, z, x);
    }
    return product(k_.output, k_.vocabulary, normalise(k_.output_norm, z));
  }

 private:
  Row cross_block(int64_t block, const Row& z, const Row& x) {
    const DecodeCross& b = k_.cross[block];
    const int64_t a = k_.attention_width, d = a / k_.cross_heads;
    Row q = product(b.q, a, normalise(b.norm_q, z));
    rotate(q, 0, d, k_.cross_rotary, k_.query_offset);
    const Row mixed =
        k_.context_table != nullptr ? attend_tokens(block, q, d) : attend_keys(b, block, q, x, d);
    Row sum = product(b.out, k_.latent_channels, mixed);
    if (k_.query_residual) add(sum, z);
    return mlp(b.norm_mlp, b.mlp_0, b.mlp_1, k_.cross_widening, sum);
  }

  Row attend_keys(const DecodeCross& b, int64_t block, const Row& q, const Row& x, int64_t d) {
    const int64_t a = k_.attention_width;
    Row kv = product(b.kv, 2 * a, normalise(b.norm_kv, x));
    rotate(kv, 0, d, k_.cross_rotary, 0);
    const int64_t first_row = (block * k_.slots + slot_) * k_.context_rows;
    write(kv, 0, k_.context_kv, first_row + k_.context_row[slot_]);
    return attend(q, k_.context_kv, first_row, k_.context_count[slot_], d);
  }

  Row attend_tokens(int64_t block, const Row& q, int64_t d) {
    const int64_t a = k_.attention_width;
    int32_t *tokens = k_.context_tokens + slot_ * k_.context_rows,
            *positions = k_.context_positions + slot_ * k_.context_rows;
    tokens[k_.context_row[slot_]] = k_.token[slot_];
    positions[k_.context_row[slot_]] = k_.position[slot_];
    const Bits* table = static_cast<const Bits*>(k_.context_table) + block * k_.vocabulary * 2 * a;
    return attend(q, k_.context_count[slot_], d, [&, a](int64_t row, int64_t channel) {
      const Bits* kv = table + tokens[row] * 2 * a;
      const auto value = [kv](int64_t c) { return static_cast<double>(bf16_value(kv[c])); };
      const int64_t head = channel / d, pair = channel - channel % 2, band = channel % d / 2;
      if (head >= k_.cross_rotary.heads || band >= k_.cross_rotary.bands) return value(channel);
      const auto [cosine, sine] = rotation(k_.cross_rotary, positions[row], band);
      return channel == pair ? value(pair) * cosine - value(pair + 1) * sine
                             : value(pair + 1) * cosine + value(pair) * sine;
    });
  }

  Row self_block(int64_t layer, const Row& z) {
    const DecodeSelf& b = k_.self[layer];
    const int64_t w = k_.latent_channels, d = w / k_.self_heads;
    Row qkv = product(b.qkv, 3 * w, normalise(b.norm, z));
    rotate(qkv, 0, d, k_.self_rotary, k_.query_offset);
    rotate(qkv, w, d, k_.self_rotary, k_.query_offset);
    const int64_t first_row = (layer * k_.slots + slot_) * k_.latent_rows;
    write(qkv, w, k_.self_kv, first_row + k_.latent_row[slot_]);
    qkv.resize(static_cast<size_t>(w));
    const Row mixed = attend(qkv, k_.self_kv, first_row, k_.latent_count[slot_], d);
    Row sum = product(b.out, w, mixed);
    add(sum, z);
    return mlp(b.norm_mlp, b.mlp_0, b.mlp_1, k_.self_widening, sum);
  }

  Row mlp(const DecodeNorm& norm, const DecodeLinear& up, const DecodeLinear& down, int64_t widening,
          const Row& z) const {
    Row hidden = product(up, widening * k_.latent_channels, normalise(norm, z));
    for (double& v : hidden) v = activate(k_.activation, v);
    Row out = product(down, k_.latent_channels, hidden);
    add(out, z);
    return out;
  }

  static double activate(Activation activation, double x) {
    switch (activation) {
      case Activation::identity:
        return x;
      case Activation::squared_relu:
        return x > 0 ? x * x : 0;
      case Activation::relu:
        return std::max(x, 0.0);
      case Activation::silu:
        return x / (1 + std::exp(-x));
      case Activation::gelu:
        return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
      case Activation::gelu_exact:
        return x / 2 * std::erfc(-x / std::numbers::sqrt2);
    }
    return x;
  }

  static void add(Row& to, const Row& x) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += x[i];
  }
  static void add_row(Row& to, const void* table, int64_t row) {
    const Bits* from = static_cast<const Bits*>(table) + row * static_cast<int64_t>(to.size());
    for (size_t i = 0; i < to.size(); ++i) to[i] += static_cast<double>(bf16_value(from[i]));
  }
  static void round(Row& x) {
    for (double& v : x) v = bf16_rounded(v);
  }

  static WorkerPool& workers() {
    static WorkerPool pool(available_processors());
    return pool;
  }

  Row product(const DecodeLinear& linear, int64_t rows, Row x) const {
    round(x);
    Row y(static_cast<size_t>(rows));
    const Bits* bias = static_cast<const Bits*>(linear.bias);
    const bool narrow = kernels::is_narrow(k_.weight_type);
    workers().run(rows, [&](int64_t r) {
      const double sum = narrow ? narrow_sum(linear, rows, r, x) : wide_sum(linear, r, x);
      y[static_cast<size_t>(r)] = sum + (bias != nullptr ? static_cast<double>(bf16_value(bias[r])) : 0);
    });
    return y;
  }

  static double wide_sum(const DecodeLinear& linear, int64_t row, const Row& x) {
    const Bits* weight = static_cast<const Bits*>(linear.weight) + row * static_cast<int64_t>(x.size());
    double sum = 0;
    for (size_t c = 0; c < x.size(); ++c) sum += static_cast<double>(bf16_value(weight[c])) * x[c];
    return sum;
  }
  double narrow_sum(const DecodeLinear& linear, int64_t rows, int64_t row, const Row& x) const {
    const auto columns = static_cast<int64_t>(x.size());
    const auto* const codes = static_cast<const uint8_t*>(linear.weight);
    const auto* const scales =
        reinterpret_cast<const float*>(codes + kernels::narrow_scale_offset(rows, columns));
    double sum = 0;
    for (int64_t c = 0; c < columns; ++c)
      sum += numbers_[codes[row * columns + c]] * x[static_cast<size_t>(c)];
    return sum * static_cast<double>(scales[row]);
  }

  static Row normalise(const DecodeNorm& norm, Row x) {
    const double n = static_cast<double>(x.size());
    const double mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
    double variance = 0;
    for (const double v : x) variance += (v - mean) * (v - mean) / n;
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = (x[i] - mean) / std::sqrt(variance + 1e-5) *
                 static_cast<double>(bf16_value(static_cast<const Bits*>(norm.scale)[i])) +
             static_cast<double>(bf16_value(static_cast<const Bits*>(norm.offset)[i]));
    return x;
  }

  void rotate(Row& x, int64_t begin, int64_t head_dim, const DecodeRotary& table, int64_t offset) const {
    const int64_t position = k_.position[slot_] + offset;
    for (int64_t h = 0; h < table.heads; ++h)
      for (int64_t i = 0; i < table.bands; ++i) {
        const auto [cosine, sine] = rotation(table, position, i);
        double& even = x[static_cast<size_t>(begin + h * head_dim + 2 * i)];
        double& odd = x[static_cast<size_t>(begin + h * head_dim + 2 * i + 1)];
        const double e = even, o = odd;
        even = e * cosine - o * sine;
        odd = o * cosine + e * sine;
      }
  }

  /// Cosine and sine.
  static std::pair<double, double> rotation(const DecodeRotary& table, int64_t position, int64_t band) {
    const int64_t entry = std::abs(position) * table.bands + band;
    const auto at = [entry](const void* angles) {
      return static_cast<double>(static_cast<const float*>(angles)[entry]);
    };
    return {at(table.cosine), at(table.sine) * (position < 0 ? -1 : 1)};
  }

  /// Writes the channels of x from `begin` on to a row of the cache.
  void write(const Row& x, int64_t begin, void* cache, int64_t row) const {
    const int64_t width = static_cast<int64_t>(x.size()) - begin;
    for (int64_t c = 0; c < width; ++c)
      set_cached_number(cache, k_.cache_type, row * width + c, x[static_cast<size_t>(begin + c)]);
  }

  Row attend(const Row& q, const void* cache, int64_t first_row, int64_t rows, int64_t head_dim) const {
    const auto width = static_cast<int64_t>(q.size());
    return attend(q, rows, head_dim, [&, width](int64_t row, int64_t channel) {
      return cached_number(cache, k_.cache_type, (first_row + row) * 2 * width + channel);
    });
  }

  /// at(row, channel): keys of all heads, then values.
  template <typename At>
  static Row attend(const Row& q, int64_t rows, int64_t head_dim, const At& at) {
    const auto width = static_cast<int64_t>(q.size());
    Row out(static_cast<size_t>(width));
    workers().run(width / head_dim, [&](int64_t h) {
      Row weight(static_cast<size_t>(rows));
      double largest = -INFINITY, sum = 0;
      for (int64_t r = 0; r < rows; ++r) {
        double& score = weight[static_cast<size_t>(r)];
        for (int64_t c = h * head_dim; c < (h + 1) * head_dim; ++c)
          score += q[static_cast<size_t>(c)] * at(r, c);
        score /= std::sqrt(static_cast<double>(head_dim));
        largest = std::max(largest, score);
      }
      for (double& w : weight) sum += w = std::exp(w - largest);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = h * head_dim; c < (h + 1) * head_dim; ++c)
          out[static_cast<size_t>(c)] += weight[static_cast<size_t>(r)] / sum * at(r, width + c);
    });
    return out;
  }

  const DecodeStep& k_;
  int64_t slot_;
  std::vector<double> numbers_ = numbers_of(k_.weight_type);
};

}  // namespace perceiver::testing
