#include "serve/completions.h"

#include <fmt/format.h>

#include <atomic>

#include "perceiver/special_tokens.h"
#include "serve/completion_writer.h"
#include "serve/http_error.h"
#include "serve/watched_generation.h"
#include "serve/watched_score.h"

namespace perceiver::serve {
namespace {

constexpr const char* kNoToken =
    "no token could be chosen: logit_bias forbids every id, or the model's logits are not finite";

/// A continuation as far as it has come.
struct Made {
  std::vector<GeneratedToken> tokens;
  std::string text;
  std::optional<FinishReason> reason;
};

std::vector<SequenceRequest> sequences_of(const CompletionRequest& request, const Tokenizer& tokenizer) {
  std::vector<SequenceRequest> sequences;
  if (request.options.tokens == 0) return sequences;
  for (const TokenSequence& prompt : request.prompts) {
    for (int64_t k = 0; k < request.n; ++k) {
      sequences.push_back({tokenizer.prompt(prompt), request.options});
      sequences.back().options.seed += static_cast<uint64_t>(k);
    }
  }
  return sequences;
}

int64_t prompt_tokens(const CompletionRequest& request) {
  size_t count = 0;
  for (const TokenSequence& prompt : request.prompts) count += prompt.ids.size();
  return static_cast<int64_t>(count);
}

/// What comes before a continuation with `echo`: the prompt, with its log-probabilities if they are wanted.
Made echo_of(ServedModel& model, const CompletionRequest& request, const TokenSequence& prompt,
             const std::function<bool()>& gone, const Limits& limits) {
  Made made;
  made.text = std::get<std::string>(model.model.tokenizer().decode(prompt));
  if (!request.logprobs) return made;
  const Score score = std::move(score_watched(model, {&prompt, 1}, {}, gone, limits.seconds)[0]);
  for (size_t i = 0; i < prompt.ids.size(); ++i)
    made.tokens.push_back({prompt.ids[i], score.log_probabilities[i], model.texts->of(prompt.ids[i]), {}});
  return made;
}

std::vector<Made> echoes_of(ServedModel& model, const CompletionRequest& request,
                            const std::function<bool()>& gone, const Limits& limits) {
  std::vector<Made> echoes(static_cast<size_t>(request.n) * request.prompts.size());
  if (!request.echo) return echoes;
  for (size_t p = 0; p < request.prompts.size(); ++p) {
    const Made echo = echo_of(model, request, request.prompts[p], gone, limits);
    for (size_t k = 0; k < static_cast<size_t>(request.n); ++k)
      echoes[p * static_cast<size_t>(request.n) + k] = echo;
  }
  return echoes;
}

void take(const SequenceEvent& event, const std::vector<Made>& echoes, std::vector<Made>& made) {
  Made& to = made[event.index];
  if (event.token) to.tokens.push_back(*event.token);
  if (!event.end) return;
  to.text = echoes[event.index].text + event.end->text;
  to.reason = event.end->finish_reason;
}

/// Runs the request to its end. Throws HttpError 503 if it found no end.
std::vector<Made> make(WatchedGeneration& generation, const std::vector<Made>& echoes) {
  std::vector<Made> made = echoes;
  std::vector<SequenceEvent> events;
  while (generation.next(events)) {
    for (const SequenceEvent& event : events) take(event, echoes, made);
    events.clear();
  }
  for (size_t i = 0; i < made.size(); ++i) {
    if (made[i].reason == FinishReason::failed) refuse(400, "{}", kNoToken);
    if (made[i].reason) continue;
    if (!generation.out_of_time()) refuse(503, "the generation was cancelled");
    for (size_t t = echoes[i].tokens.size(); t < made[i].tokens.size(); ++t)
      made[i].text += made[i].tokens[t].text;
  }
  return made;
}

Reply answer_at_once(ServedModel& model, const CompletionRequest& request, std::function<bool()> gone,
                     const Limits& limits) {
  const CompletionWriter writer(request, *model.texts, model.name);
  const std::vector<Made> echoes = echoes_of(model, request, gone, limits);
  std::vector<Made> made = echoes;
  if (request.options.tokens > 0) {
    WatchedGeneration generation(model.scheduler, sequences_of(request, model.model.tokenizer()),
                                 std::move(gone), limits.seconds);
    made = make(generation, echoes);
  }
  auto choices = nlohmann::ordered_json::array();
  int64_t new_tokens = 0;
  for (size_t i = 0; i < made.size(); ++i) {
    new_tokens += static_cast<int64_t>(made[i].tokens.size() - echoes[i].tokens.size());
    choices.push_back(writer.choice(
        {static_cast<int64_t>(i), made[i].text, made[i].tokens, made[i].reason, /*ended=*/true, 0}));
  }
  auto answer = writer.answer(std::move(choices));
  answer["usage"] = writer.usage(prompt_tokens(request), new_tokens);
  return json_reply(answer);
}

/// Server-sent events: a piece for each token, comments while it waits, and "[DONE]".
class CompletionStream final : public ReplyStream {
 public:
  CompletionStream(ServedModel& model, CompletionRequest request, std::function<bool()> gone,
                   const Limits& limits)
      : request_(std::move(request)),
        writer_(request_, *model.texts, model.name),
        waiting_(echoes_of(model, request_, gone, limits)),
        progress_(waiting_.size()) {
    auto sequences = sequences_of(request_, model.model.tokenizer());
    if (!sequences.empty())
      generation_.emplace(model.scheduler, std::move(sequences), std::move(gone), limits.seconds);
  }

  bool next(std::string& out) override {
    if (!waiting_.empty()) show_echoes(out);
    if (!generation_) return finish(out);
    std::vector<SequenceEvent> events;
    try {
      if (!generation_->next(events)) return finish(out);
    } catch (const Error& error) {
      out += event_text({{"error", {{"message", error.what()}, {"type", "server_error"}}}});
      return false;
    }
    if (events.empty()) show_queue(out);
    for (const SequenceEvent& event : events) event.token ? grow(event, out) : end(event, out);
    return true;
  }

 private:
  struct Progress {
    size_t bytes = 0;        ///< of new text that has been sent
    int64_t characters = 0;  ///< the same, with an echo
    bool ended = false;
  };

  void show(const CompletionPiece& piece, std::string& out) {
    out += event_text(writer_.answer(nlohmann::ordered_json::array({writer_.choice(piece)})));
  }

  void show_echoes(std::string& out) {
    for (size_t i = 0; i < waiting_.size() && request_.echo; ++i) {
      show({static_cast<int64_t>(i), waiting_[i].text, waiting_[i].tokens, {}, false, 0}, out);
      progress_[i].characters = characters(waiting_[i].text);
    }
    waiting_.clear();
  }

  void show_queue(std::string& out) {
    const int64_t ahead = generation_->ahead();
    if (new_tokens_ == 0) out += fmt::format(": queue {}\n\n", ahead);
  }

  void grow(const SequenceEvent& event, std::string& out) {
    const GeneratedToken& token = *event.token;
    Progress& progress = progress_[event.index];
    ++new_tokens_;
    if (token.text.empty() && !request_.logprobs && !request_.token_ids) return;
    show({static_cast<int64_t>(event.index), token.text, {&token, 1}, {}, false, progress.characters}, out);
    progress.bytes += token.text.size();
    progress.characters += characters(token.text);
  }

  void end(const SequenceEvent& event, std::string& out) {
    if (!event.end) return;
    Progress& progress = progress_[event.index];
    progress.ended = true;
    const std::string& text = event.end->text;
    show({static_cast<int64_t>(event.index),
          text.substr(std::min(progress.bytes, text.size())),
          {},
          event.end->finish_reason,
          true,
          progress.characters},
         out);
  }

  bool finish(std::string& out) {
    for (size_t i = 0; i < progress_.size(); ++i)
      if (!progress_[i].ended) show({static_cast<int64_t>(i), "", {}, FinishReason::length, true, 0}, out);
    if (request_.usage) {
      auto last = writer_.answer(nlohmann::ordered_json::array());
      last["usage"] = writer_.usage(prompt_tokens(request_), new_tokens_);
      out += event_text(last);
    }
    out += "data: [DONE]\n\n";
    return false;
  }

  const CompletionRequest request_;
  CompletionWriter writer_;
  std::vector<Made> waiting_;  ///< echoes that have not been sent
  std::vector<Progress> progress_;
  std::optional<WatchedGeneration> generation_;
  int64_t new_tokens_ = 0;
};

}  // namespace

std::string new_id(const char* prefix) {
  static std::atomic<uint64_t> count = 0;
  return fmt::format("{}{:016x}", prefix, ++count);
}

const char* finish_name(std::optional<FinishReason> reason) {
  const bool stopped = reason == FinishReason::end_token || reason == FinishReason::stop_string;
  return stopped ? "stop" : "length";
}

Reply complete(ServedModel& model, const CompletionRequest& request, std::function<bool()> gone,
               const Limits& limits) {
  if (!request.stream) return answer_at_once(model, request, std::move(gone), limits);
  return {"", "", std::make_unique<CompletionStream>(model, request, std::move(gone), limits), {}};
}

}  // namespace perceiver::serve
