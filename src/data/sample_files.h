// Between files and generation: a prompt file becomes ids and positions, what was generated becomes a file.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/modality.h"

namespace perceiver {

/// The modality of a model file's metadata; `user` error for data that has none (copy).
std::unique_ptr<Modality> modality_of_model(const std::string& modality, const std::string& tokenizer);

/// What is to be generated: a prompt with SOS, and what it needs of the engine.
struct SamplePlan {
  std::vector<int32_t> prompt;     ///< ids, SOS first
  std::vector<int32_t> positions;  ///< [L, A] of SOS and all tokens to come; empty: 1, 2, …
  /// Added to the logits, V each: row t % rows for the t-th new token (0 first). 0 or −infinity; empty:
  /// nothing is forbidden.
  std::vector<std::vector<float>> biases;
  int64_t tokens = 0;   ///< new tokens: as asked for, or what is left of a sequence of known length
  bool may_end = true;  ///< whether EOS means anything
};

/// Plans the continuation of `prompt` (empty: from nothing) by at most `tokens` tokens; 0 = to the end of a
/// sequence of known length. `model_ids` is the model's vocabulary, which may be larger than the data's.
/// Throws `user` where the length is known neither way, or the prompt leaves nothing to generate.
SamplePlan plan_sample(const Modality& modality, const Prompt& prompt, int64_t tokens, int64_t model_ids);

/// Reads a prompt file. Throws `user` as `Modality::prompt` does.
Prompt read_prompt(const Modality& modality, const std::string& path, const PromptOptions& options);

/// Writes `sequences` (ids with the prompt's, without SOS) as files: one as `path`; several as one picture
/// where the modality can, else as NAME-1.mid, NAME-2.mid … `positions` as in SamplePlan. The ending of
/// `path` chooses the format. Returns the paths written, whole or not at all.
std::vector<std::string> write_samples(const Modality& modality,
                                       const std::vector<std::vector<int32_t>>& sequences,
                                       const std::vector<int32_t>& positions, const std::string& path);

/// Throws `user` unless files of that ending can be written: to be asked before a long generation.
void check_output(const Modality& modality, const std::string& path);

}  // namespace perceiver
