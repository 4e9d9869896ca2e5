// Generates a text, or any sequence of tokens, token by token.
//
//   auto model = perceiver::Model::load("runs/book");
//   auto story = model.start("Once upon a time", {.tokens = 200, .seed = 1});
//   auto other = story.fork(2);                       // the same start, another continuation
//   while (auto token = story.next()) std::cout << token->text;
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "perceiver/export.h"
#include "perceiver/policy.h"
#include "perceiver/tokenizer.h"

namespace perceiver {

/// Sees the sequence so far (with SOS and prompt) and the logits [V] of the next token before it is chosen,
/// and may change them: -infinity forbids an id. Called by the thread that advances the sequence; it must not
/// use the generator. What it throws passes through.
using LogitsCallback = std::function<void(std::span<const int32_t> tokens, std::span<double> logits)>;

struct GenerateOptions {
  /// At most this many new tokens; 0 = to the end of a sequence of known length (an image), else 256.
  int64_t tokens = 0;
  double temperature = 1;   ///< 0 = greedy: always the most likely token
  int64_t top_k = 0;        ///< 0 = off
  double top_p = 1;         ///< 1 = off
  double min_p = 0;         ///< 0 = off
  uint64_t seed = 0;        ///< same seed, same text
  bool ignore_eos = false;  ///< do not stop at the end token
  /// Positive logits of tokens that have occurred are divided by it, negative ones multiplied. 1 = off.
  double repetition_penalty = 1;
  std::vector<std::string> stop = {};     ///< text: it ends before the first of these
  std::vector<int32_t> stop_tokens = {};  ///< ids that end the sequence
  std::vector<std::pair<int32_t, float>> logit_bias =
      {};  ///< id and value added to its logit; -infinity = never
  /// Rows of one value per id, from id 0, added to the logits; new token t uses row t % (number of rows).
  std::vector<std::vector<float>> logit_masks = {};
  LogitsCallback logits = {};  ///< any other constraint; costs a wait for the device in every step
  int64_t alternatives = 0;    ///< the likeliest ids to report with each token; likewise
  GenerationPolicy policy = GenerationPolicy::automatic;
  int64_t latents = 0;         ///< 0 = model.latents
  int64_t refill = 0;          ///< latents that policy refill recomputes; 0 = half of them
  int64_t prompt_latents = 0;  ///< latents used by the prefill; 0 = all
  ContextEnd context_end = ContextEnd::drop;
  /// Besides the type that the model computes in: bfloat16 of a model in float32 on the CPU; fp8 on a GPU.
  KvCache kv_cache = KvCache::automatic;
};

struct Alternative {
  int32_t id = 0;
  double log_probability = 0;  ///< nats, under the unmodified distribution of the model
};

struct GeneratedToken {
  int32_t id = 0;
  double log_probability = 0;  ///< nats, under the unmodified distribution of the model
  std::string text;            ///< the UTF-8 characters completed by this token; often empty
  /// The likeliest ids at this place, likeliest first, as many as GenerateOptions::alternatives asks for.
  std::vector<Alternative> alternatives;
};

/// One sequence being generated. Generators of one model may run concurrently in different threads; a single
/// generator must be used by one thread at a time, except for `cancel`. Members throw perceiver::Error on
/// failure.
class PERCEIVER_API Generator {
 public:
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;
  ~Generator();

  /// The next token, or nothing once the sequence has ended.
  std::optional<GeneratedToken> next();
  /// Calls `on_token` for each token; returning false ends the sequence.
  void run(const std::function<bool(const GeneratedToken&)>& on_token);
  /// Ends the sequence; a prefill that is running is given up. Can be called from any thread.
  void cancel();
  bool ended() const;
  /// Why the sequence ended; nothing while it goes on.
  std::optional<FinishReason> finish_reason() const;

  /// The ids of the prompt and the continuation.
  const std::vector<int32_t>& tokens() const;
  /// Prompt and continuation as the model's Tokenizer decodes them.
  TokenSequence sequence() const;
  /// Sum over the new tokens, nats.
  double log_probability() const;
  /// Logits [V] that the next token will be chosen from, unmodified. Throws `user` if the sequence has ended.
  std::vector<double> next_logits();
  /// Takes `id` as the next token, as if it had been chosen. Throws `user` for an id outside 1 … V − 1, or if
  /// the sequence has ended.
  GeneratedToken push(int32_t id);

  /// A copy of the sequence that continues independently, with random numbers from `seed`. A LogitsCallback
  /// is shared with the copy.
  Generator fork(uint64_t seed) const;
  /// The bytes of a file from which Model::restore continues bit for bit. A LogitsCallback is not saved, nor
  /// are alternatives.
  std::string save() const;

 private:
  friend class Model;
  struct State;
  explicit Generator(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace perceiver
