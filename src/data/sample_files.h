// Connects files with generation: turns a prompt file into ids and positions, and generated ids into files.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/modality.h"

namespace perceiver {

/// The modality named in the metadata of a model file; throws `user` for data without one (copy).
std::unique_ptr<Modality> modality_of_model(const std::string& modality, const std::string& tokenizer);

/// V, the token ids of the data that a model was trained on, as its metadata describe it: no more than the
/// model's vocabulary, which may have been chosen larger.
int64_t token_ids(const std::string& modality, const std::string& tokenizer);

/// What to generate: the prompt and the settings that the data requires.
struct SamplePlan {
  std::vector<int32_t> prompt;     ///< ids, SOS first
  std::vector<int32_t> positions;  ///< [L, A] of SOS and all tokens to come; empty: 1, 2, …
  /// Rows of V values added to the logits, 0 or −infinity: new token t, from 0, uses row t % rows. Empty:
  /// nothing is forbidden.
  std::vector<std::vector<float>> biases;
  int64_t tokens = 0;   ///< new tokens: as requested, or the rest of a sequence of known length
  bool may_end = true;  ///< whether EOS ends the sequence
};

/// Plans the continuation of `prompt` (may be empty) by at most `tokens` tokens; 0 = to the end of a sequence
/// of known length. `model_ids` is the vocabulary of the model, which may be larger than that of the data.
/// Throws `user` if neither gives a length, or the prompt leaves nothing to generate.
SamplePlan plan_sample(const Modality& modality, const Prompt& prompt, int64_t tokens, int64_t model_ids);

/// Reads a prompt file. Throws `user` as `Modality::prompt` does.
Prompt read_prompt(const Modality& modality, const std::string& path, const PromptPart& options);

/// A generated sequence: `ids` including the prompt, without SOS; `positions` as in SamplePlan.
TokenSequence generated_sequence(const Modality& modality, std::vector<int32_t> ids,
                                 const std::vector<int32_t>& positions);

/// Writes `sequences` to files: one to `path`; several to one image if the modality can, else to NAME-1.mid,
/// NAME-2.mid … The extension of `path` selects the format. Each file appears whole or not at all. Returns
/// the paths written.
std::vector<std::string> write_samples(const Modality& modality, std::span<const TokenSequence> samples,
                                       const std::string& path);

/// NAME-2.txt of NAME.txt: the name of one of several files.
std::string numbered_file(const std::string& path, size_t number);

/// Throws `user` unless the modality writes files with that extension. Call it before a long generation.
void check_output(const Modality& modality, const std::string& path);

}  // namespace perceiver
