// A text, or any sequence of tokens, that grows token by token.
//
//   auto model = perceiver::Model::load("runs/book");
//   auto story = model.start("Once upon a time", {.tokens = 200, .seed = 1});
//   auto other = story.fork(2);                       // the same beginning, another continuation
//   while (auto token = story.next()) std::cout << token->text;
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "perceiver/policy.h"

namespace perceiver {

struct GenerateOptions {
  int64_t tokens = 100;    ///< new tokens at most
  double temperature = 1;  ///< 0 = always the likeliest
  int64_t top_k = 0;       ///< 0 = off
  double top_p = 1;
  double min_p = 0;
  uint64_t seed = 0;        ///< same seed, same text
  bool ignore_eos = false;  ///< never end early
  double repetition_penalty =
      1;  ///< logits of tokens that occurred are divided by it (multiplied where negative)
  std::vector<std::string> stop;                      ///< the text ends before the first of these
  std::vector<int32_t> stop_tokens;                   ///< ids that end the sequence
  std::vector<std::pair<int32_t, float>> logit_bias;  ///< added to tokens' logits; -infinity: never
  /// Added to the logits, one value for each id from 0 on; row t % (number of rows) for the t-th new token.
  std::vector<std::vector<float>> logit_masks;
  GenerationPolicy policy = GenerationPolicy::automatic;
  int64_t latents = 0;         ///< 0 = the model's
  int64_t refill = 0;          ///< latents that policy refill computes anew; 0 = half of them
  int64_t prompt_latents = 0;  ///< latents of the pass over the prompt; 0 = all
  ContextEnd context_end = ContextEnd::drop;
};

/// A prompt as token ids, SOS (2) first.
struct TokenPrompt {
  std::vector<int32_t> tokens;
  /// For models with position tables: positions of the prompt's tokens and of those to come, [any number,
  /// axes]; so the elements of an image may be given and generated in any order. The sequence ends with the
  /// last. Empty: 1, 2, …
  std::vector<int32_t> positions;
};

struct GeneratedToken {
  int32_t id = 0;
  double log_probability = 0;  ///< nats, under the model itself
  std::string text;            ///< whole UTF-8 characters that are now certain; often empty
};

/// One sequence on its way. Generators of one model may run in different threads at the same time; each of
/// them is one thread's at a time, but for `cancel`. Every member throws perceiver::Error for what it cannot
/// do.
class Generator {
 public:
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;
  ~Generator();

  /// The next token; none once the sequence has ended.
  std::optional<GeneratedToken> next();
  /// Calls back for each token until the sequence ends or the callback returns false.
  void run(const std::function<bool(const GeneratedToken&)>& on_token);
  /// From any thread: `next` returns nothing from now on.
  void cancel();
  bool ended() const;
  /// Prompt and continuation.
  const std::vector<int32_t>& tokens() const;
  /// Nats, sum over the new tokens.
  double log_probability() const;

  /// The same sequence, free to go on otherwise: its random numbers are those of `seed`.
  Generator fork(uint64_t seed) const;
  /// Everything that Model::restore needs to go on bit for bit: a file's bytes.
  std::string save() const;

 private:
  friend class Model;
  struct State;
  explicit Generator(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace perceiver
