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
#include <string>
#include <utility>
#include <vector>

#include "perceiver/export.h"
#include "perceiver/policy.h"

namespace perceiver {

struct GenerateOptions {
  int64_t tokens = 100;     ///< maximum number of new tokens
  double temperature = 1;   ///< 0 = greedy: always the most likely token
  int64_t top_k = 0;        ///< 0 = off
  double top_p = 1;         ///< 1 = off
  double min_p = 0;         ///< 0 = off
  uint64_t seed = 0;        ///< same seed, same text
  bool ignore_eos = false;  ///< do not stop at the end token
  /// Positive logits of tokens that have occurred are divided by it, negative ones multiplied. 1 = off.
  double repetition_penalty = 1;
  std::vector<std::string> stop;                      ///< the text ends before the first of these
  std::vector<int32_t> stop_tokens;                   ///< ids that end the sequence
  std::vector<std::pair<int32_t, float>> logit_bias;  ///< id and value added to its logit; -infinity = never
  /// Rows of one value per id, from id 0, added to the logits; new token t uses row t % (number of rows).
  std::vector<std::vector<float>> logit_masks;
  GenerationPolicy policy = GenerationPolicy::automatic;
  int64_t latents = 0;         ///< 0 = model.latents
  int64_t refill = 0;          ///< latents that policy refill recomputes; 0 = half of them
  int64_t prompt_latents = 0;  ///< latents used by the prefill; 0 = all
  ContextEnd context_end = ContextEnd::drop;
};

/// A prompt as token ids, SOS (2) first.
struct TokenPrompt {
  std::vector<int32_t> tokens;
  /// For models with position tables: the positions of the prompt and of the tokens to come, [any number,
  /// axes]; the elements of an image can thus be given and generated in any order. The sequence ends at the
  /// last position. Empty: 1, 2, …
  std::vector<int32_t> positions;
};

struct GeneratedToken {
  int32_t id = 0;
  double log_probability = 0;  ///< nats, under the unmodified distribution of the model
  std::string text;            ///< the UTF-8 characters completed by this token; often empty
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
  /// Calls `on_token` for each token until the sequence ends or it returns false.
  void run(const std::function<bool(const GeneratedToken&)>& on_token);
  /// Makes `next` return nothing from now on. Can be called from any thread.
  void cancel();
  bool ended() const;
  /// The ids of the prompt and the continuation.
  const std::vector<int32_t>& tokens() const;
  /// Sum over the new tokens, nats.
  double log_probability() const;

  /// A copy of the sequence that continues independently, with random numbers from `seed`.
  Generator fork(uint64_t seed) const;
  /// The bytes of a file from which Model::restore continues bit for bit.
  std::string save() const;

 private:
  friend class Model;
  struct State;
  explicit Generator(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace perceiver
