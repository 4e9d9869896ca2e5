// What another implementation computed on a batch, as this library takes it: files with in/tokens [B, N],
// in/labels [B, L] (aligned with the L latents), in/prefix_len or a fixed prefix, in/pad_mask [B, N] (1 =
// pad, on the left), in/prefix_mask [B, P] (1 = attend), in/prefix_keep_mask [B, P] or [crosses, B, P] (1 =
// not dropped), out/logits_exact [B, L, V], out/loss (mean over labels). Ids are theirs; i32, masks u8, f32.
#pragma once

#include <cstdint>
#include <vector>

#include "io/safetensors.h"
#include "model/batch.h"
#include "model/inputs.h"
#include "port/import.h"

namespace perceiver {

struct GoldenRows {
  Batch batch;                ///< ids and layout of this library: left padding removed, padded on the right
  int64_t latents = 0;        ///< L
  std::vector<int64_t> rows;  ///< the number in the file of each example of `batch`
  std::vector<int64_t> leaking;  ///< numbers of rows left out: padding among their latents
  /// For each cross-attention: [B, N], 0 = hidden; empty if all columns are visible.
  std::vector<std::vector<uint8_t>> visible;
  bool same_targets = true;  ///< false: `batch` lacks targets that their loss counts
};

/// Throws `user` for a file that is not of that kind, or does not fit the model.
GoldenRows read_golden_rows(const SafetensorsFile& file, const ImportedModel& imported);

/// The inputs of a pass over them, masks included.
ModelInputs golden_inputs(const PerceiverAR& model, const GoldenRows& golden);

/// Their logits of one example of `golden.batch` in this library's order of ids: [L, V], 0 where they have no
/// such id.
std::vector<double> golden_logits(const SafetensorsFile& file, const ImportedModel& imported,
                                  const GoldenRows& golden, size_t example);

/// Largest differences of a model from what they computed.
struct GoldenDifference {
  std::vector<double> logits;  ///< of each example
  double largest_logit = 0;
  double loss = 0, their_loss = 0;  ///< only if `has_loss`
  bool has_loss = false;
};
GoldenDifference golden_difference(const SafetensorsFile& file, const ImportedModel& imported,
                                   const GoldenRows& golden);

}  // namespace perceiver
