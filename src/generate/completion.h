// What a request becomes: chosen tokens turn into text, until something ends it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/text/tokenizer.h"
#include "data/text/utf8_stream.h"
#include "generate/request.h"
#include "generate/stop_strings.h"
#include "perceiver/policy.h"

namespace perceiver {

/// The name in the program's output: "tokens", "end", "stop", "context", "cancelled", "callback", "failed".
const char* name_of(FinishReason reason);

struct Completion {
  std::vector<int32_t> tokens;  ///< new ids, including the one that ended the sequence
  double log_probability = 0;   ///< nats, sum over the new tokens
  /// Valid UTF-8: bytes that form no character are replaced by U+FFFD. Empty without a tokenizer.
  std::string text;
  std::optional<FinishReason> finish_reason;  ///< none while the sequence grows
};

/// Grows a completion token by token. Text is held back while it may be part of a character or the start of a
/// stop string.
class CompletionStream {
 public:
  /// `tokenizer` must outlive this; null: ids only. Throws `user` for stop strings that are empty, or given
  /// without a tokenizer.
  CompletionStream(const GenerationRequest& request, const TextTokenizer* tokenizer);

  /// Takes the next chosen token; returns the text that it makes certain, all of the rest if it is the last.
  std::string put(int32_t token, double log_probability);
  /// The sequence ends after `tokens` new tokens for that reason, unless something ends it before.
  void limit(int64_t tokens, FinishReason reason);
  void cancel() { finish(FinishReason::cancelled); }
  /// The caller wants no more.
  void stop() { finish(FinishReason::callback); }
  /// No token could be chosen.
  void fail() { finish(FinishReason::failed); }
  /// Takes the new tokens of a saved sequence, whose text was returned before.
  void replay(std::span<const int32_t> tokens, double log_probability);

  bool finished() const { return completion_.finish_reason.has_value(); }
  const Completion& completion() const { return completion_; }

 private:
  void check_finished();
  void finish(FinishReason reason);

  const TextTokenizer* tokenizer_;
  std::vector<int32_t> stop_tokens_;
  int64_t limit_;
  FinishReason limit_reason_ = FinishReason::length;
  StopStrings stop_;
  Utf8Stream characters_;
  Completion completion_;
  size_t returned_ = 0;  ///< bytes of the text that `put` has returned
};

}  // namespace perceiver
