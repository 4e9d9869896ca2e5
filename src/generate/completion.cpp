#include "generate/completion.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace perceiver {

const char* name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::length:
      return "tokens";
    case FinishReason::end_token:
      return "end";
    case FinishReason::stop_string:
      return "stop";
    case FinishReason::context:
      return "context";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::callback:
      return "callback";
    case FinishReason::failed:
      return "failed";
  }
  return "";
}

CompletionStream::CompletionStream(const GenerationRequest& request, const TextTokenizer* tokenizer)
    : tokenizer_(tokenizer), stop_tokens_(request.stop_tokens), limit_(request.tokens), stop_(request.stop) {
  if (tokenizer == nullptr && !request.stop.empty())
    throw_user("stop strings need a tokenizer to turn tokens into text");
  if (tokenizer != nullptr) completion_.text = characters_.put(request.echo);
  check_finished();
}

std::string CompletionStream::put(int32_t token, double log_probability) {
  completion_.tokens.push_back(token);
  completion_.log_probability += log_probability;
  if (tokenizer_ != nullptr) completion_.text += characters_.put(stop_.put(tokenizer_->decode({&token, 1})));
  check_finished();
  const size_t begin = std::exchange(returned_, completion_.text.size());
  return completion_.text.substr(begin);
}

void CompletionStream::limit(int64_t tokens, FinishReason reason) {
  if (tokens < limit_) limit_reason_ = reason;
  limit_ = std::min(limit_, tokens);
  check_finished();
}

void CompletionStream::replay(std::span<const int32_t> tokens, double log_probability) {
  for (const int32_t token : tokens) put(token, 0);
  completion_.log_probability = log_probability;
}

void CompletionStream::check_finished() {
  const std::vector<int32_t>& tokens = completion_.tokens;
  const bool ends =
      !tokens.empty() && (tokens.back() == eos_token || std::find(stop_tokens_.begin(), stop_tokens_.end(),
                                                                  tokens.back()) != stop_tokens_.end());
  if (ends) return finish(FinishReason::end_token);
  if (stop_.found()) return finish(FinishReason::stop_string);
  if (static_cast<int64_t>(tokens.size()) >= limit_) finish(limit_reason_);
}

void CompletionStream::finish(FinishReason reason) {
  if (finished()) return;
  completion_.finish_reason = reason;
  completion_.text += characters_.put(stop_.flush());
  completion_.text += characters_.flush();
}

}  // namespace perceiver
