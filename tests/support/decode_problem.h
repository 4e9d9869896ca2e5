// For the test and the benchmark of the fused decode step: problems in host memory, their copies on the
// device, and a plain reference for the result of a step.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <numbers>
#include <numeric>
#include <vector>

#include "base/processors.h"
#include "base/worker_pool.h"
#include "kernels/decode.h"
#include "kernels/dequantize.h"
#include "kernels/fp8_codes.h"
#include "tests/support/cuda_fixture.h"

namespace perceiver::testing {

using kernels::DecodeCross;
using kernels::DecodeLinear;
using kernels::DecodeNorm;
using kernels::DecodeRotary;
using kernels::DecodeSelf;
using kernels::DecodeStep;

using Bits = uint16_t;  // a bf16

inline float bf16_value(Bits bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
inline Bits bf16_bits(float x) {
  const auto word = std::bit_cast<uint32_t>(x);
  return static_cast<Bits>((word + 0x7FFFu + (word >> 16 & 1)) >> 16);
}
inline double bf16_rounded(double x) {
  return static_cast<double>(bf16_value(bf16_bits(static_cast<float>(x))));
}

constexpr Bits kPoison = 0xFFFF;           // a NaN
constexpr int32_t kPoisonToken = 1 << 30;  // outside every table

/// What varies between problems.
struct DecodeShape {
  int64_t slots = 1, vocabulary = 259, input = 128, latent = 128, attention = 128;
  int64_t cross_heads = 4, self_heads = 4, cross_widening = 4, self_widening = 4;
  int64_t layers = 2, context_rows = 40, latent_rows = 24;
  std::vector<int64_t> cross_after = {};
  Activation activation = Activation::squared_relu, query_activation = Activation::silu;
  bool query_residual = true, biases = true;
  int64_t query_offset = 0;
  int query_layers = 0, position_tables = 0;
  double rotary_fraction = 0.5, rotary_heads = 1;
  bool tokens = false;  // the context as tokens, with tables
  DType weights = DType::bf16;
};

/// The number that each byte of weights of eight bits stands for.
inline std::vector<double> numbers_of(DType type) {
  std::vector<double> numbers;
  for (int code = 0; code < 256; ++code)
    numbers.push_back(type == DType::i8
                          ? static_cast<int8_t>(code)
                          : kernels::decode_fp8(static_cast<uint8_t>(code), kernels::Fp8Format::e4m3));
  return numbers;
}

/// A problem on the host: `step` points into the arrays below. Cache rows that hold nothing yet are poisoned,
/// including those that the step writes.
class HostDecode {
 public:
  DecodeShape shape;
  DecodeStep step;

  HostDecode(const DecodeShape& s, uint64_t seed) : shape(s), state_(seed * 2 + 1) {
    fill_sizes();
    step.token_embedding = values(s.vocabulary * s.input, 1);
    for (int t = 0; t < s.position_tables; ++t) step.position_table[t] = values(kTableRows * s.input, 1);
    step.query = linear(s.latent, s.input);
    for (int i = 0; i < s.query_layers; ++i) step.query_mlp[i] = linear(s.latent, s.latent);
    for (int64_t x = 0; x < step.cross_blocks; ++x) cross.push_back(cross_block());
    for (int64_t l = 0; l < s.layers; ++l) self.push_back(self_block());
    step.cross = cross.data();
    step.self = self.data();
    step.cross_after = shape.cross_after.data();
    step.output_norm = norm(s.latent);
    step.output = linear(s.vocabulary, s.latent);
    step.cross_rotary = rotary(s.attention / s.cross_heads, s.cross_heads);
    step.self_rotary = rotary(s.latent / s.self_heads, s.self_heads);
    if (s.tokens) step.context_table = values(step.cross_blocks * s.vocabulary * 2 * s.attention, 1);
    fill_slots();
    fill_caches();
  }
  HostDecode(const HostDecode&) = delete;
  HostDecode& operator=(const HostDecode&) = delete;

  /// Sets a slot's counts and rows; call fill_caches() afterwards.
  void set_slot(int64_t s, int32_t context_count, int32_t context_row, int32_t latent_count,
                int32_t latent_row, bool is_active) {
    contexts[s] = context_count, context_places[s] = context_row;
    latents[s] = latent_count, latent_places[s] = latent_row;
    actives[s] = is_active ? 1 : 0;
  }
  void fill_caches() {
    if (shape.tokens) {
      fill_tokens();
    } else {
      context_kv.resize(
          static_cast<size_t>(step.cross_blocks * shape.slots * shape.context_rows * 2 * shape.attention));
    }
    self_kv.resize(static_cast<size_t>(shape.layers * shape.slots * shape.latent_rows * 2 * shape.latent));
    fill_cache(context_kv, step.cross_blocks, shape.context_rows, 2 * shape.attention, contexts,
               context_places);
    fill_cache(self_kv, shape.layers, shape.latent_rows, 2 * shape.latent, latents, latent_places);
    step.context_kv = shape.tokens ? nullptr : context_kv.data();
    step.self_kv = self_kv.data();
  }

  std::vector<DecodeCross> cross;
  std::vector<DecodeSelf> self;
  std::vector<std::vector<Bits>> arrays;  // weights
  std::vector<std::vector<float>> rotary_arrays;
  std::vector<Bits> context_kv, self_kv;
  std::vector<int32_t> context_tokens, context_positions;
  std::vector<int32_t> tokens, positions, table_positions, contexts, context_places, latents, latent_places,
      actives;

 private:
  static constexpr int64_t kTableRows = 50;
  static constexpr int64_t kRotaryMargin = 8;

  /// Roughly normal: the sum of four uniform numbers.
  float random() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    const uint64_t x = state_ * 0x2545F4914F6CDD1D;
    const auto sum = static_cast<float>((x & 0xFFFF) + (x >> 16 & 0xFFFF) + (x >> 32 & 0xFFFF) + (x >> 48));
    return (sum / 65536.0f - 2.0f) * std::numbers::sqrt3_v<float>;
  }
  const void* values(int64_t count, double deviation, double mean = 0) {
    std::vector<Bits>& array = arrays.emplace_back(static_cast<size_t>(count));
    for (Bits& x : array) x = bf16_bits(static_cast<float>(mean) + static_cast<float>(deviation) * random());
    return array.data();
  }
  DecodeLinear linear(int64_t out, int64_t in, double gain = 1) {
    const double deviation = gain / std::sqrt(static_cast<double>(in));
    const void* weight =
        kernels::is_narrow(shape.weights) ? codes(out, in, deviation) : values(out * in, deviation);
    return {weight, shape.biases ? values(out, 0.2) : nullptr};
  }
  /// Weights of eight bits, then their scales, of which each row has its own. The first rows hold all codes,
  /// the others numbers of a normal distribution.
  const void* codes(int64_t out, int64_t in, double deviation) {
    constexpr int64_t kRowsOfAllCodes = 8;
    constexpr float kSpread = 16;
    const std::vector<double> numbers = numbers_of(shape.weights);
    const int64_t scales_at = kernels::narrow_scale_offset(out, in);
    std::vector<Bits>& array = arrays.emplace_back(static_cast<size_t>((scales_at + 4 * out) / 2));
    auto* const code = reinterpret_cast<uint8_t*>(array.data());
    auto* const scale = reinterpret_cast<float*>(code + scales_at);
    for (int64_t r = 0; r < out; ++r) {
      double squares = 0;
      for (int64_t c = 0; c < in; ++c) {
        uint8_t& x = code[r * in + c];
        const float number = kSpread * random();
        x = shape.weights == DType::i8
                ? static_cast<uint8_t>(
                      static_cast<int8_t>(std::clamp(std::nearbyint(number), -127.0f, 127.0f)))
                : kernels::encode_fp8(static_cast<double>(number), kernels::Fp8Format::e4m3);
        if (r < kRowsOfAllCodes) x = static_cast<uint8_t>(r * 32 + c);
        if (shape.weights == DType::e4m3 && (x & 0x7f) == kernels::kNotANumber) x = 0;
        squares += numbers[x] * numbers[x];
      }
      const double spread = std::sqrt(squares / static_cast<double>(in));
      scale[r] = static_cast<float>(spread == 0 ? 1 : deviation / spread);
    }
    return code;
  }
  DecodeNorm norm(int64_t channels) {
    const void* scale = values(channels, 0.2, 1);
    return {scale, values(channels, 0.2)};
  }
  DecodeCross cross_block() {
    const int64_t hidden = shape.cross_widening * shape.latent;
    DecodeCross b;
    b.norm_q = norm(shape.latent), b.norm_kv = norm(shape.input), b.norm_mlp = norm(shape.latent);
    b.q = linear(shape.attention, shape.latent, 2);
    b.kv = linear(2 * shape.attention, shape.input);
    b.out = linear(shape.latent, shape.attention);
    b.mlp_0 = linear(hidden, shape.latent), b.mlp_1 = linear(shape.latent, hidden);
    return b;
  }
  DecodeSelf self_block() {
    const int64_t hidden = shape.self_widening * shape.latent;
    DecodeSelf b;
    b.norm = norm(shape.latent), b.norm_mlp = norm(shape.latent);
    b.qkv = linear(3 * shape.latent, shape.latent, 1.5);
    b.out = linear(shape.latent, shape.latent);
    b.mlp_0 = linear(hidden, shape.latent), b.mlp_1 = linear(shape.latent, hidden);
    return b;
  }
  DecodeRotary rotary(int64_t head_dim, int64_t heads) {
    DecodeRotary table;
    table.bands = static_cast<int64_t>(static_cast<double>(head_dim) * shape.rotary_fraction / 2);
    table.heads = static_cast<int64_t>(static_cast<double>(heads) * shape.rotary_heads);
    if (shape.position_tables > 0) table.bands = 0;
    const int64_t rows = shape.context_rows + kRotaryMargin;
    std::vector<float> cosine(static_cast<size_t>(rows * table.bands)), sine(cosine);
    for (int64_t p = 0; p < rows; ++p)
      for (int64_t i = 0; i < table.bands; ++i) {
        const double angle =
            static_cast<double>(p) *
            std::pow(static_cast<double>(rows), -static_cast<double>(i) / static_cast<double>(table.bands));
        cosine[static_cast<size_t>(p * table.bands + i)] = static_cast<float>(std::cos(angle));
        sine[static_cast<size_t>(p * table.bands + i)] = static_cast<float>(std::sin(angle));
      }
    table.cosine = rotary_arrays.emplace_back(std::move(cosine)).data();
    table.sine = rotary_arrays.emplace_back(std::move(sine)).data();
    return table;
  }
  int32_t below(int64_t limit) {
    random();
    return static_cast<int32_t>((state_ >> 20) % static_cast<uint64_t>(limit));
  }
  void fill_sizes() {
    const DecodeShape& s = shape;
    step.slots = s.slots, step.vocabulary = s.vocabulary;
    step.input_channels = s.input, step.latent_channels = s.latent, step.attention_width = s.attention;
    step.cross_heads = s.cross_heads, step.self_heads = s.self_heads;
    step.cross_widening = s.cross_widening, step.self_widening = s.self_widening;
    step.weight_type = s.weights;
    step.layers = s.layers, step.cross_blocks = 1 + static_cast<int64_t>(s.cross_after.size());
    step.context_rows = s.context_rows, step.latent_rows = s.latent_rows;
    step.activation = s.activation, step.query_activation = s.query_activation;
    step.query_residual = s.query_residual, step.query_offset = s.query_offset;
    step.query_layers = s.query_layers, step.position_tables = s.position_tables;
  }
  /// Every slot is active, with its own counts and rows.
  void fill_slots() {
    const auto n = static_cast<size_t>(shape.slots);
    for (auto* numbers :
         {&tokens, &positions, &contexts, &context_places, &latents, &latent_places, &actives})
      numbers->resize(n);
    table_positions.resize(n * static_cast<size_t>(shape.position_tables));
    for (size_t s = 0; s < n; ++s) {
      tokens[s] = below(shape.vocabulary);
      positions[s] = below(shape.context_rows);
      contexts[s] = 1 + below(shape.context_rows);
      context_places[s] = below(contexts[s]);
      latents[s] = 1 + below(shape.latent_rows);
      latent_places[s] = below(latents[s]);
      actives[s] = 1;
    }
    for (int32_t& p : table_positions) p = below(kTableRows);
    step.token = tokens.data(), step.position = positions.data(),
    step.table_position = table_positions.data();
    step.context_count = contexts.data(), step.context_row = context_places.data();
    step.latent_count = latents.data(), step.latent_row = latent_places.data();
    step.active = actives.data();
  }
  void fill_tokens() {
    context_tokens.clear(), context_positions.clear();
    for (int64_t s = 0; s < shape.slots; ++s)
      for (int64_t r = 0; r < shape.context_rows; ++r) {
        const bool known = r < contexts[s] && r != context_places[s];
        context_tokens.push_back(known ? below(shape.vocabulary) : kPoisonToken);
        context_positions.push_back(known ? below(shape.context_rows) : kPoisonToken);
      }
    step.context_tokens = context_tokens.data();
    step.context_positions = context_positions.data();
  }
  void fill_cache(std::vector<Bits>& cache, int64_t blocks, int64_t rows, int64_t width,
                  const std::vector<int32_t>& counts, const std::vector<int32_t>& places) {
    if (cache.empty()) return;
    auto at = cache.begin();
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t s = 0; s < shape.slots; ++s)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < width; ++c)
            *at++ = r < counts[s] && r != places[s] ? bf16_bits(random()) : kPoison;
  }

  uint64_t state_;
};

/// A step for one slot in f64, rounded to bf16 where the kernel keeps bf16: inputs of products and the
/// caches. Writes the slot's new rows, or its token and position, to the caches of `step`, whose pointers are
/// to host memory. Returns the logits.
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
    Bits* cache = static_cast<Bits*>(k_.context_kv) + (block * k_.slots + slot_) * k_.context_rows * 2 * a;
    write(kv, 0, cache, k_.context_row[slot_]);
    return attend(q, cache, k_.context_count[slot_], a, d);
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
    Bits* cache = static_cast<Bits*>(k_.self_kv) + (layer * k_.slots + slot_) * k_.latent_rows * 2 * w;
    write(qkv, w, cache, k_.latent_row[slot_]);
    qkv.resize(static_cast<size_t>(w));
    const Row mixed = attend(qkv, cache, k_.latent_count[slot_], w, d);
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
  static void write(const Row& x, int64_t begin, Bits* cache, int64_t row) {
    const int64_t width = static_cast<int64_t>(x.size()) - begin;
    for (int64_t c = 0; c < width; ++c)
      cache[row * width + c] = bf16_bits(static_cast<float>(x[static_cast<size_t>(begin + c)]));
  }

  static Row attend(const Row& q, const Bits* cache, int64_t rows, int64_t width, int64_t head_dim) {
    return attend(q, rows, head_dim, [cache, width](int64_t row, int64_t channel) {
      return static_cast<double>(bf16_value(cache[row * 2 * width + channel]));
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

/// A host problem on the device. `slots` may be larger than the host problem's single slot, with keys and
/// values cached: then all slots are alike.
class DeviceDecode {
 public:
  DecodeStep step;
  std::unique_ptr<DeviceArray<Bits>> self_kv, context_kv;                   // the latter or
  std::unique_ptr<DeviceArray<int32_t>> context_tokens, context_positions;  // these
  std::unique_ptr<DeviceArray<float>> logits;

  DeviceDecode(const Launch& launch, const HostDecode& host, int64_t slots) : step(host.step) {
    step.slots = slots;
    step.token_embedding = upload(host, step.token_embedding);
    for (int t = 0; t < step.position_tables; ++t)
      step.position_table[t] = upload(host, step.position_table[t]);
    place(host, step.query);
    for (int i = 0; i < step.query_layers; ++i) place(host, step.query_mlp[i]);
    place(host, step.output);
    place(host, step.output_norm);
    cross_ = host.cross, self_ = host.self;
    for (DecodeCross& b : cross_) {
      for (DecodeNorm* norm : {&b.norm_q, &b.norm_kv, &b.norm_mlp}) place(host, *norm);
      for (DecodeLinear* linear : {&b.q, &b.kv, &b.out, &b.mlp_0, &b.mlp_1}) place(host, *linear);
    }
    for (DecodeSelf& b : self_) {
      for (DecodeNorm* norm : {&b.norm, &b.norm_mlp}) place(host, *norm);
      for (DecodeLinear* linear : {&b.qkv, &b.out, &b.mlp_0, &b.mlp_1}) place(host, *linear);
    }
    step.cross = cross_.data(), step.self = self_.data();
    for (DecodeRotary* table : {&step.cross_rotary, &step.self_rotary})
      for (const void** angles : {&table->cosine, &table->sine})
        for (const std::vector<float>& array : host.rotary_arrays)
          if (array.data() == *angles) {
            floats_.push_back(std::make_unique<DeviceArray<float>>(array));
            *angles = floats_.back()->data();
            break;
          }
    const auto numbers = [&](const std::vector<int32_t>& values, int64_t each) {
      std::vector<int32_t> all;
      for (int64_t s = 0; s < slots; ++s)
        for (int64_t i = 0; i < each; ++i)
          all.push_back(values[static_cast<size_t>((slots == host.shape.slots ? s : 0) * each + i)]);
      numbers_.push_back(std::make_unique<DeviceArray<int32_t>>(all));
      return numbers_.back()->data();
    };
    step.token = numbers(host.tokens, 1);
    step.position = numbers(host.positions, 1);
    step.table_position = numbers(host.table_positions, host.shape.position_tables);
    step.context_count = numbers(host.contexts, 1);
    step.context_row = numbers(host.context_places, 1);
    step.latent_count = numbers(host.latents, 1);
    step.latent_row = numbers(host.latent_places, 1);
    step.active = numbers(host.actives, 1);
    self_kv = cache(host, host.self_kv, step.layers);
    step.self_kv = self_kv->data();
    place_context(host);
    logits = std::make_unique<DeviceArray<float>>(static_cast<size_t>(slots * step.vocabulary));
    step.logits = logits->data();
    workspace_ = std::make_unique<DeviceArray<uint8_t>>(
        static_cast<size_t>(kernels::cuda::decode_workspace(launch, step)));
    step.workspace = workspace_->data();
    kernels::cuda::decode_prepare(launch, step);
  }

 private:
  const void* upload(const HostDecode& host, const void* from) {
    if (from == nullptr) return nullptr;
    while (arrays_.size() < host.arrays.size()) arrays_.push_back(nullptr);
    for (size_t i = 0; i < host.arrays.size(); ++i) {
      if (host.arrays[i].data() != from) continue;
      if (arrays_[i] == nullptr) arrays_[i] = std::make_unique<DeviceArray<Bits>>(host.arrays[i]);
      return arrays_[i]->data();
    }
    throw std::runtime_error("an array of the step is not among the host problem's");
  }
  void place_context(const HostDecode& host) {
    if (!host.shape.tokens) {
      context_kv = cache(host, host.context_kv, step.cross_blocks);
      step.context_kv = context_kv->data();
      return;
    }
    step.context_table = upload(host, step.context_table);
    context_tokens = std::make_unique<DeviceArray<int32_t>>(host.context_tokens);
    context_positions = std::make_unique<DeviceArray<int32_t>>(host.context_positions);
    step.context_tokens = context_tokens->data(), step.context_positions = context_positions->data();
  }
  void place(const HostDecode& host, DecodeLinear& linear) {
    linear.weight = upload(host, linear.weight);
    linear.bias = upload(host, linear.bias);
  }
  void place(const HostDecode& host, DecodeNorm& norm) {
    norm.scale = upload(host, norm.scale);
    norm.offset = upload(host, norm.offset);
  }
  std::unique_ptr<DeviceArray<Bits>> cache(const HostDecode& host, const std::vector<Bits>& from,
                                           int64_t blocks) {
    if (step.slots == host.shape.slots) return std::make_unique<DeviceArray<Bits>>(from);
    const size_t part = from.size() / static_cast<size_t>(blocks);
    auto all = std::make_unique<DeviceArray<Bits>>(from.size() * static_cast<size_t>(step.slots));
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t s = 0; s < step.slots; ++s) {
        Bits* to = all->data() + static_cast<size_t>(b * step.slots + s) * part;
        const bool first = s == 0;
        require_cuda(
            cudaMemcpy(to,
                       first ? from.data() + static_cast<size_t>(b) * part
                             : all->data() + static_cast<size_t>(b * step.slots) * part,
                       part * sizeof(Bits), first ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToDevice),
            "cache");
      }
    return all;
  }

  std::vector<DecodeCross> cross_;
  std::vector<DecodeSelf> self_;
  std::vector<std::unique_ptr<DeviceArray<Bits>>> arrays_;
  std::vector<std::unique_ptr<DeviceArray<float>>> floats_;
  std::vector<std::unique_ptr<DeviceArray<int32_t>>> numbers_;
  std::unique_ptr<DeviceArray<uint8_t>> workspace_;
};

/// |actual - expected| / |expected|; NaN if either contains one.
template <typename Actual, typename Expected>
double relative_error(const Actual* actual, const Expected* expected, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double e = static_cast<double>(expected[i]), d = static_cast<double>(actual[i]) - e;
    difference += d * d;
    norm += e * e;
  }
  return std::sqrt(difference / norm);
}

}  // namespace perceiver::testing
