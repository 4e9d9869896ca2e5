#include "serve/generations.h"

#include <fmt/format.h>

#include "io/base64.h"
#include "serve/completions.h"
#include "serve/content_json.h"
#include "serve/growth.h"
#include "serve/http_error.h"
#include "serve/watched_generation.h"

namespace perceiver::serve {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::milliseconds kGrowth{200};  ///< between two looks at a growing sequence

std::vector<SequenceRequest> sequences_of(const GenerateRequest& request) {
  std::vector<SequenceRequest> sequences;
  for (int64_t k = 0; k < request.n; ++k) {
    sequences.push_back({request.prompt, request.options});
    sequences.back().options.seed += static_cast<uint64_t>(k);
  }
  return sequences;
}

Json answer_of(const ServedModel& model, const std::string& id, Json choices) {
  return {{"id", id},
          {"object", "generation"},
          {"model", model.name},
          {"modality", model.data().modality},
          {"choices", std::move(choices)}};
}

void require_tokens(std::optional<FinishReason> reason) {
  if (reason == FinishReason::failed)
    refuse(400,
           "no token could be chosen: logit_bias forbids every id, or the model's logits are not finite");
}

/// The choice's end, with the file if one is wanted.
void add_end(const ServedModel& model, const GenerateRequest& request, const GeneratedSequence& end,
             Json& choice) {
  choice["tokens"] = end.tokens.size();
  choice["log_probability"] = end.log_probability;
  if (!request.file.empty())
    choice["file"] = to_base64(model.model.tokenizer().decode_bytes(end.sequence, request.file));
  choice["finish_reason"] = finish_name(end.finish_reason);
}

Json choice_of(const ServedModel& model, const GenerateRequest& request, size_t index,
               const GeneratedSequence& end) {
  Json choice{{"index", index}, {"seed", request.options.seed + index}};
  choice.update(write_content(model.model.tokenizer().decode(end.sequence)));
  add_end(model, request, end, choice);
  return choice;
}

/// Runs the request to its end. Throws HttpError if it found none.
std::vector<GeneratedSequence> make(WatchedGeneration& generation, size_t count) {
  std::vector<std::optional<GeneratedSequence>> made(count);
  std::vector<SequenceEvent> events;
  while (generation.next(events)) {
    for (SequenceEvent& event : events)
      if (event.end) made[event.index] = std::move(event.end);
    events.clear();
  }
  std::vector<GeneratedSequence> whole;
  for (auto& each : made) {
    if (!each && generation.out_of_time()) refuse(504, "the time for a request is up; ask for fewer tokens");
    if (!each) refuse(503, "the generation was cancelled");
    require_tokens(each->finish_reason);
    whole.push_back(std::move(*each));
  }
  return whole;
}

Reply answer_at_once(ServedModel& model, const GenerateRequest& request, std::function<bool()> gone,
                     const Limits& limits) {
  WatchedGeneration generation(model.scheduler, sequences_of(request), std::move(gone), limits.seconds);
  const std::vector<GeneratedSequence> made = make(generation, static_cast<size_t>(request.n));
  if (request.raw)
    return {media_type(request.file), model.model.tokenizer().decode_bytes(made[0].sequence, request.file),
            nullptr, model.data().modality + request.file};
  Json choices = Json::array();
  for (size_t i = 0; i < made.size(); ++i) choices.push_back(choice_of(model, request, i, made[i]));
  return json_reply(answer_of(model, new_id("gen-"), std::move(choices)));
}

/// Server-sent events: what is new of a sequence several times a second, and its end.
class GenerationStream final : public ReplyStream {
 public:
  GenerationStream(ServedModel& model, GenerateRequest request, std::function<bool()> gone,
                   const Limits& limits)
      : model_(model),
        request_(std::move(request)),
        id_(new_id("gen-")),
        growth_(static_cast<size_t>(request_.n), Growth(model.model.tokenizer(), request_.beginning)),
        tokens_(growth_.size()),
        generation_(model.scheduler, sequences_of(request_), std::move(gone), limits.seconds, kGrowth) {}

  bool next(std::string& out) override {
    if (!shown_) show_beginning(out);
    std::vector<SequenceEvent> events;
    try {
      if (!generation_.next(events)) {
        out += "data: [DONE]\n\n";
        return false;
      }
      if (events.empty() && !started_) out += fmt::format(": queue {}\n\n", generation_.ahead());
      for (const SequenceEvent& event : events) show(event, out);
    } catch (const Error& error) {
      return fail(error.what(), out);
    } catch (const HttpError& error) {
      return fail(error.what(), out);
    }
    return true;
  }

 private:
  bool fail(const char* message, std::string& out) {
    out += event_text({{"error", {{"message", message}, {"type", "server_error"}}}});
    return false;
  }

  /// The notes that are continued: whoever sent a file does not know them.
  void show_beginning(std::string& out) {
    shown_ = true;
    const Content content = model_.model.tokenizer().decode(request_.beginning);
    if (!std::holds_alternative<Notes>(content)) return;
    Json answer = answer_of(model_, id_, Json::array());
    answer["beginning"] = write_content(content);
    out += event_text(answer);
  }

  void show(const SequenceEvent& event, std::string& out) {
    started_ = true;
    if (event.token) ++tokens_[event.index];
    if (event.token) return;
    const bool whole = event.end.has_value();
    if (whole) require_tokens(event.end->finish_reason);
    const Json grown = growth_[event.index].show(whole ? event.end->sequence : *event.so_far, whole);
    Json choice{{"index", event.index}, {"tokens", tokens_[event.index]}};
    if (!grown.is_null()) choice.update(grown);
    choice["finish_reason"] = nullptr;
    if (whole) add_end(model_, request_, *event.end, choice);
    out += event_text(answer_of(model_, id_, Json::array({std::move(choice)})));
  }

  ServedModel& model_;
  const GenerateRequest request_;
  const std::string id_;
  std::vector<Growth> growth_;
  std::vector<int64_t> tokens_;
  bool shown_ = false, started_ = false;
  WatchedGeneration generation_;
};

}  // namespace

Reply generate(ServedModel& model, GenerateRequest request, std::function<bool()> gone,
               const Limits& limits) {
  if (!request.stream) return answer_at_once(model, request, std::move(gone), limits);
  return {"", "", std::make_unique<GenerationStream>(model, std::move(request), std::move(gone), limits), {}};
}

const char* media_type(std::string_view ending) {
  if (ending == ".png") return "image/png";
  if (ending == ".mid") return "audio/midi";
  if (ending == ".wav") return "audio/wav";
  if (ending == ".flac") return "audio/flac";
  return ending == ".txt" ? "text/plain; charset=utf-8" : "application/octet-stream";
}

}  // namespace perceiver::serve
