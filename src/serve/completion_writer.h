// The JSON of completions: whole answers and the pieces of a stream.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "perceiver/policy.h"
#include "serve/completion_request.h"
#include "serve/token_texts.h"

namespace perceiver::serve {

/// A part of a continuation, which may be the whole.
struct CompletionPiece {
  int64_t index = 0;
  std::string text;
  std::span<const GeneratedToken> tokens;
  std::optional<FinishReason> reason;
  bool ended = false;
  int64_t offset = 0;  ///< characters of the text before it
};

class CompletionWriter {
 public:
  CompletionWriter(const CompletionRequest& request, const TokenTexts& texts, std::string model);

  nlohmann::ordered_json choice(const CompletionPiece& piece) const;
  nlohmann::ordered_json answer(nlohmann::ordered_json choices) const;
  nlohmann::ordered_json usage(int64_t prompt_tokens, int64_t new_tokens) const;

 private:
  nlohmann::ordered_json logprobs(const CompletionPiece& piece) const;

  const CompletionRequest& request_;
  const TokenTexts& texts_;
  const std::string model_, id_;
  const int64_t created_;
};

/// Characters of UTF-8 text.
int64_t characters(std::string_view text);

}  // namespace perceiver::serve
