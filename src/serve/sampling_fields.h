// The members that all requests for new tokens have in common.
#pragma once

#include "perceiver/generator.h"
#include "perceiver/tokenizer.h"
#include "serve/json_fields.h"
#include "serve/limits.h"

namespace perceiver::serve {

/// max_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed, ignore_eos, logit_bias. A seed
/// that is not given is drawn. `tokens` is what max_tokens is without being given; 0: the rest of a sequence
/// of known length.
GenerateOptions read_sampling(JsonFields& fields, const TokenizerInfo& data, const Limits& limits,
                              int64_t tokens);

}  // namespace perceiver::serve
