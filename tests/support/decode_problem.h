// For the test and the benchmark of the fused decode step: problems in host memory. device_decode.h has their
// copies on the device, decode_reference.h a plain reference for the result of a step.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "kernels/decode.h"
#include "kernels/dequantize.h"
#include "kernels/fp8_codes.h"

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

constexpr uint8_t kPoison = 0xFF;          // each byte of a NaN
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
  DType weights = DType::bf16, caches = DType::bf16;
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

/// Number i of a cache of `type`, bf16 or e4m3.
inline double cached_number(const void* cache, DType type, int64_t i) {
  if (type == DType::bf16) return static_cast<double>(bf16_value(static_cast<const Bits*>(cache)[i]));
  static const std::vector<double> numbers = numbers_of(DType::e4m3);
  return numbers[static_cast<const uint8_t*>(cache)[i]];
}
inline void set_cached_number(void* cache, DType type, int64_t i, double x) {
  if (type == DType::bf16) {
    static_cast<Bits*>(cache)[i] = bf16_bits(static_cast<float>(x));
  } else {
    static_cast<uint8_t*>(cache)[i] = kernels::encode_fp8(x, kernels::Fp8Format::e4m3);
  }
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
      resize(context_kv, step.cross_blocks * shape.slots * shape.context_rows * 2 * shape.attention);
    }
    resize(self_kv, shape.layers * shape.slots * shape.latent_rows * 2 * shape.latent);
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
  std::vector<uint8_t> context_kv, self_kv;  // numbers of the type of the caches
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
    step.weight_type = s.weights, step.cache_type = s.caches;
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
  void resize(std::vector<uint8_t>& cache, int64_t numbers) const {
    cache.resize(static_cast<size_t>(numbers) * size_of(shape.caches));
  }
  void fill_cache(std::vector<uint8_t>& cache, int64_t blocks, int64_t rows, int64_t width,
                  const std::vector<int32_t>& counts, const std::vector<int32_t>& places) {
    std::fill(cache.begin(), cache.end(), kPoison);
    if (cache.empty()) return;
    int64_t row = 0;
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t s = 0; s < shape.slots; ++s)
        for (int64_t r = 0; r < rows; ++r, ++row)
          if (r < counts[s] && r != places[s]) fill_row(cache, row * width, width);
  }
  /// With random numbers, from number `begin` on.
  void fill_row(std::vector<uint8_t>& cache, int64_t begin, int64_t width) {
    static const std::vector<uint8_t> codes = [] {  // of each bf16, since encoding is slow
      std::vector<uint8_t> all;
      for (uint32_t bits = 0; bits < 1 << 16; ++bits)
        all.push_back(kernels::encode_fp8(static_cast<double>(bf16_value(static_cast<Bits>(bits))),
                                          kernels::Fp8Format::e4m3));
      return all;
    }();
    for (int64_t i = begin; i < begin + width; ++i) {
      const Bits bits = bf16_bits(random());
      if (shape.caches == DType::bf16) {
        reinterpret_cast<Bits*>(cache.data())[i] = bits;
      } else {
        cache[static_cast<size_t>(i)] = codes[bits];
      }
    }
  }

  uint64_t state_;
};

}  // namespace perceiver::testing
