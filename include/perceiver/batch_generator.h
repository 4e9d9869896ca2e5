// Generates many sequences at once: they join, leave, fork and are cancelled while others go on.
//
//   perceiver::BatchGenerator batch(model, {.slots = 8});
//   for (const auto& prompt : prompts) batch.add(prompt, {.tokens = 100});
//   while (batch.step()) {}
//   std::string first = batch.result(0).text;
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/export.h"
#include "perceiver/generator.h"

namespace perceiver {

class Model;

/// What all sequences of a batch share; as in GenerateOptions.
struct BatchOptions {
  int64_t slots = 8;  ///< sequences that grow at once; others wait for one to end
  GenerationPolicy policy = GenerationPolicy::automatic;
  int64_t latents = 0;
  int64_t refill = 0;
  int64_t prompt_latents = 0;
  ContextEnd context_end = ContextEnd::drop;
  KvCache kv_cache = KvCache::automatic;
};

/// What has become of a sequence.
struct GeneratedSequence {
  std::vector<int32_t> tokens;                ///< the new ids, including the one that ended it
  TokenSequence sequence;                     ///< prompt and continuation, for Tokenizer::decode
  std::string text;                           ///< of text models: the new text, valid UTF-8
  double log_probability = 0;                 ///< nats, sum over the new tokens
  std::optional<FinishReason> finish_reason;  ///< none while it grows
};

/// Receives each new token of sequence `id`; false ends that sequence.
using BatchTokenCallback = std::function<bool(int64_t id, const GeneratedToken& token)>;

/// Used by one thread at a time, except for `cancel`; a model may have several. What a sequence becomes
/// depends neither on the others nor on the number of slots. Members throw perceiver::Error; an error in one
/// request leaves the others as they were.
class PERCEIVER_API BatchGenerator {
 public:
  /// Throws `user` for options that the model does not allow, and `failure` if memory is short, naming how
  /// many slots would fit. `on_token` is called by `step`; what it throws passes through.
  explicit BatchGenerator(const Model& model, const BatchOptions& options = {},
                          BatchTokenCallback on_token = {});
  BatchGenerator(BatchGenerator&&) noexcept;
  BatchGenerator& operator=(BatchGenerator&&) noexcept;
  ~BatchGenerator();

  /// Appends a sequence; returns its id, counted from 0. Throws `user` for a request that cannot be met, and
  /// for options that belong to the batch (policy, latents, refill, prompt_latents, context_end, kv_cache).
  int64_t add(std::string_view prompt, const GenerateOptions& options = {});
  int64_t add(const TokenPrompt& prompt, const GenerateOptions& options = {});
  /// A copy of a sequence that has not ended, which continues with random numbers from `seed`.
  int64_t fork(int64_t id, uint64_t seed);
  /// Ends a sequence at the next step; if its prefill is running, that is given up. From any thread; does
  /// nothing for a sequence that has ended.
  void cancel(int64_t id);

  /// Advances every sequence that has a slot by a token. False once there is nothing left to do; it may be
  /// called again after `add`.
  bool step();

  /// Sequences that have not ended, and those of them that wait for a slot.
  int64_t unfinished() const;
  int64_t waiting() const;
  bool finished(int64_t id) const;
  /// The sequence so far. Throws `user` for an id that was never returned, or was taken.
  GeneratedSequence result(int64_t id) const;
  /// The same for a finished sequence, which is then forgotten: a server that runs for days takes every one.
  GeneratedSequence take(int64_t id);
  /// Logits [V] that the next token of a sequence with a slot will be chosen from, unmodified.
  std::vector<double> next_logits(int64_t id);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace perceiver
