// How a pass computes the keys and values of the context (docs/projection.md), and counts of operations.
#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/config.h"
#include "perceiver/experimental/dtype.h"

namespace perceiver {

/// Work for the keys and values of all cross-attentions in a training step, from token ids on, forward and
/// backward.
struct ProjectionWork {
  double operations = 0;  ///< of matrix products: two per multiply-add
  double elements = 0;    ///< read or written by all else
};

/// The two ways, for a pass over `tokens` context tokens of all examples together.
ProjectionWork direct_projection(const ModelConfig& config, int64_t tokens);
ProjectionWork table_projection(const ModelConfig& config, int64_t tokens);

/// Whether a pass of a model that computes in `type` projects the tables instead of the tokens: as
/// model.context_projection says, or whichever takes less work.
bool projects_tables(const ModelConfig& config, int64_t tokens, DType type);

/// Context tokens of a pass over `examples` whole rows of the context length.
int64_t context_tokens(const ModelConfig& config, int64_t examples, bool training);

/// Floating-point operations of the matrix products of a training step over `examples` whole rows: three
/// times those of forward, counting attention's causal area and direct projection of the context, as PyTorch
/// would compute it.
double step_operations(const ModelConfig& config, int64_t examples);

/// The same, as this library computes it in `type`.
double executed_step_operations(const ModelConfig& config, int64_t examples, DType type);

/// Rows of the absolute position table of each axis; none for rotary positions.
std::vector<int64_t> position_table_sizes(const ModelConfig& config);

/// Whether the model has position tables that are computed, not stored.
bool has_fixed_positions(const ModelConfig& config);

}  // namespace perceiver
