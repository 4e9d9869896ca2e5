// The body of POST /v1/generate: the continuation of anything that a model was trained on.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "perceiver/generator.h"
#include "perceiver/tokenizer.h"
#include "serve/limits.h"

namespace perceiver::serve {

struct GenerateRequest {
  TokenSequence beginning;  ///< what is continued; of a completed image, all of it
  TokenPrompt prompt;
  GenerateOptions options;
  int64_t n = 1;
  bool stream = false;
  std::string file;  ///< ending with the dot of the files to be answered; empty: values alone
  bool raw = false;  ///< the body of the answer is the file
};

/// Throws HttpError 400 for anything that cannot be met, with one sentence.
GenerateRequest parse_generate(const nlohmann::json& body, const Tokenizer& tokenizer, int64_t context,
                               const Limits& limits);

}  // namespace perceiver::serve
