// What a server refuses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace perceiver::serve {

struct Limits {
  size_t body = 16 << 20;       ///< bytes
  int64_t prompt_tokens = 0;    ///< 0: the model's context, at least 65,536
  int64_t max_tokens = 16'384;  ///< new ones of a sequence
  int64_t sequences = 64;       ///< of a request: prompts times n
  int64_t seconds = 600;        ///< a request; then it ends with what there is
  size_t connections = 512;     ///< at once
};

}  // namespace perceiver::serve
