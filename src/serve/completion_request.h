// The body of POST /v1/completions.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "perceiver/generator.h"
#include "perceiver/tokenizer.h"
#include "serve/limits.h"

namespace perceiver::serve {

struct CompletionRequest {
  std::vector<TokenSequence> prompts;
  GenerateOptions options;  ///< of the first sequence; tokens 0: none, not even one
  int64_t n = 1;            ///< continuations of each prompt
  bool echo = false, stream = false, usage = false, token_ids = false, logprobs = false;
};

/// `context`: of the model, tokens. Throws HttpError 400 for anything that cannot be met, with one sentence.
CompletionRequest parse_completion(const nlohmann::json& body, const Tokenizer& tokenizer, int64_t context,
                                   const Limits& limits);

/// The most tokens that a prompt may have.
int64_t prompt_limit(const Limits& limits, int64_t context);

}  // namespace perceiver::serve
