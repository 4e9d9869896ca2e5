#include "model/projection.h"

#include <algorithm>
#include <numeric>

namespace perceiver {
namespace {

// Moving one element through memory takes about as long as this many operations of a matrix product: 100 to
// 200 on two CPU cores (470 GFLOP/s against 3 to 5 elements per nanosecond), 400 and more in bf16 on an H100.
// The low figure gives more weight to the products, which the choice is about.
constexpr double kOperationsPerElement = 100;

// A bf16 model computes its tables in tf32, at half the rate of bf16 (model/precision.cpp).
constexpr double kTableRate = 0.5;

/// The sizes that enter both counts.
struct Sizes {
  double tokens, e, o;            // context tokens; input channels; channels of a key and a value together
  double cross;                   // cross-attentions
  double terms, trained;          // tables whose rows are summed for a token; those with gradients
  double table_rows, fixed_rows;  // rows of all tables; rows of those without gradients
  double rotated;                 // share of the o channels that is rotated
  bool absolute;
};

bool trains_positions(const ModelConfig& config) {
  return config.learnable_positions || config.position_table == PositionTable::learned;
}

Sizes sizes_of(const ModelConfig& config, int64_t tokens) {
  Sizes s{};
  s.tokens = static_cast<double>(tokens);
  s.e = static_cast<double>(config.input_channels);
  s.o = 2 * static_cast<double>(config.cross_width());
  s.cross = 1 + static_cast<double>(config.extra_cross_attention_after.size());
  s.absolute = config.has_position_tables();
  const std::vector<int64_t> positions = position_table_sizes(config);
  const auto position_rows =
      static_cast<double>(std::accumulate(positions.begin(), positions.end(), int64_t{0}));
  const bool trained = trains_positions(config);
  s.terms = 1 + static_cast<double>(positions.size());
  s.trained = trained ? s.terms : 1;
  s.table_rows = static_cast<double>(config.vocabulary) + position_rows;
  s.fixed_rows = trained ? 0 : position_rows;
  s.rotated = !config.rotates() ? 0 : config.rotary_fraction * config.rotary_head_fraction / 2;
  return s;
}

double attention_area(double latents, double read) {
  return latents * read - latents * (std::min(latents, read) - 1) / 2;
}

/// Products of forward for one segment of a Transformer-XL; those of the distances, which examples share, are
/// not counted.
double recurrent_forward(const ModelConfig& c) {
  const auto t = static_cast<double>(c.context_length), m = static_cast<double>(c.memory_length),
             e = static_cast<double>(c.input_channels), z = static_cast<double>(c.z_channels()),
             s = static_cast<double>(c.self_width()), hidden = static_cast<double>(c.mlp_width());
  const double pairs = c.same_length ? t * m : t * m + t * (t + 1) / 2;
  const double block = 4 * t * z * s + 4 * (t + m) * z * s + 4 * t * z * hidden + 6 * s * pairs;
  const double ends = e == z ? 0 : 4 * t * e * z;
  return static_cast<double>(c.layers) * block + ends + 2 * t * e * static_cast<double>(c.vocabulary);
}

/// Products of forward for one example, except those of the context's keys and values.
double forward_without_projection(const ModelConfig& c, double read) {
  if (c.recurrent()) return recurrent_forward(c);
  const auto m = static_cast<double>(c.latents), e = static_cast<double>(c.input_channels),
             z = static_cast<double>(c.z_channels()), layers = static_cast<double>(c.layers),
             v = static_cast<double>(c.vocabulary);
  const auto a = static_cast<double>(c.cross_width()), s = static_cast<double>(c.self_width());
  const double u = m / static_cast<double>(c.latents_per_position);
  double forward = c.query_projection ? 2 * u * e * z : 0;
  if (c.type == ModelType::perceiver_ar) {
    const double cross = 4 * m * z * a + 4 * a * attention_area(m, read) +
                         4 * m * static_cast<double>(c.cross_widening) * z * z;
    forward += cross * static_cast<double>(1 + c.extra_cross_attention_after.size());
  }
  forward +=
      layers * (2 * m * z * (4 * s + 2 * static_cast<double>(c.self_widening) * z) + 2 * s * m * (m + 1));
  return forward + 2 * u * z * v;
}

double with_projection(const ModelConfig& config, int64_t examples, bool tables) {
  const int64_t tokens = context_tokens(config, examples, true);
  const double read = static_cast<double>(tokens) / static_cast<double>(examples);
  const double rest = 3 * static_cast<double>(examples) * forward_without_projection(config, read);
  if (config.decoder_only()) return rest;
  return rest + (tables ? table_projection(config, tokens) : direct_projection(config, tokens)).operations;
}

}  // namespace

std::vector<int64_t> position_table_sizes(const ModelConfig& config) {
  if (!config.has_position_tables()) return {};
  return config.position_sizes.empty() ? std::vector<int64_t>{config.context_length + 2}
                                       : config.position_sizes;
}

bool has_fixed_positions(const ModelConfig& config) {
  const bool formula =
      config.position_table == PositionTable::sinusoidal || config.position_table == PositionTable::fourier;
  return config.has_position_tables() && formula && !config.learnable_positions;
}

int64_t context_tokens(const ModelConfig& config, int64_t examples, bool training) {
  const bool subset = training && config.train_input_positions > 0;
  return examples *
         (subset ? std::min(config.train_input_positions, config.context_length) : config.context_length);
}

ProjectionWork direct_projection(const ModelConfig& config, int64_t tokens) {
  const Sizes s = sizes_of(config, tokens);
  // One product forward, two backward.
  const double operations = 6 * s.tokens * s.e * s.o * s.cross;
  // Forward: the sum of embeddings; backward: a sum by id for each trained table.
  const double embedding = s.tokens * s.e * (s.terms + 1 + s.trained);
  // LayerNorm: a read and a write in forward and, recomputed, in backward; there also x, d_y and d_x twice.
  const double norm = 8 * s.tokens * s.e * s.cross;
  // The bias gradient; the rotation, read and written in both directions.
  const double keys = s.tokens * s.o * s.cross * (1 + 4 * s.rotated);
  return {operations, embedding + norm + keys};
}

ProjectionWork table_projection(const ModelConfig& config, int64_t tokens) {
  const Sizes s = sizes_of(config, tokens);
  // Tables without gradients need no product for them.
  const double operations = (6 * s.table_rows - 2 * s.fixed_rows) * s.e * s.o * s.cross;
  // LayerNorm or centring of the tables, and their projections.
  const double tables = s.table_rows * s.cross * (8 * s.e + 3 * s.o);
  // Forward: the gather; backward: a sum by id for each table.
  double gathers = s.tokens * s.o * s.cross * (s.terms + 1 + s.terms);
  if (!s.absolute) return {operations, tables + gathers};
  // Backward: the products with the sums of table rows, and the offset's gradient.
  gathers += s.tokens * s.o * s.cross * (s.terms + 2);
  // The sums' variances, in backward once for each trained table.
  const double variances = s.tokens * s.e * s.terms * (1 + s.trained);
  return {operations, tables + gathers + variances};
}

bool projects_tables(const ModelConfig& config, int64_t tokens, DType type) {
  if (config.decoder_only()) return false;
  if (config.context_projection != ContextProjection::automatic)
    return config.context_projection == ContextProjection::table;
  const ProjectionWork direct = direct_projection(config, tokens), table = table_projection(config, tokens);
  const double rate = type == DType::bf16 ? kTableRate : 1;
  return table.operations / rate + kOperationsPerElement * table.elements <
         direct.operations + kOperationsPerElement * direct.elements;
}

double step_operations(const ModelConfig& config, int64_t examples) {
  return with_projection(config, examples, false);
}

double executed_step_operations(const ModelConfig& config, int64_t examples, DType type) {
  return with_projection(config, examples,
                         projects_tables(config, context_tokens(config, examples, true), type));
}

}  // namespace perceiver
