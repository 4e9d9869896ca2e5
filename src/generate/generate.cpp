#include "generate/generate.h"

namespace perceiver {

std::vector<Completion> generate(Engine& engine, const std::vector<GenerationRequest>& requests,
                                 const TokenCallback& callback, const TextTokenizer* tokenizer,
                                 const FinishedCallback& finished) {
  GenerationQueue queue(engine, tokenizer, callback, finished, false);
  for (const GenerationRequest& request : requests) queue.add(request);
  while (queue.step()) {
  }
  std::vector<Completion> completions;
  for (size_t i = 0; i < requests.size(); ++i)
    completions.push_back(queue.completion(static_cast<int64_t>(i)));
  return completions;
}

}  // namespace perceiver
