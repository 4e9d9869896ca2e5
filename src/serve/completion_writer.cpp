#include "serve/completion_writer.h"

#include <algorithm>
#include <ctime>

#include "base/utf8.h"
#include "perceiver/special_tokens.h"
#include "serve/completions.h"

namespace perceiver::serve {

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return !is_utf8_continuation(static_cast<uint8_t>(c)); });
}

CompletionWriter::CompletionWriter(const CompletionRequest& request, const TokenTexts& texts,
                                   std::string model)
    : request_(request),
      texts_(texts),
      model_(std::move(model)),
      id_(new_id("cmpl-")),
      created_(static_cast<int64_t>(std::time(nullptr))) {}

nlohmann::ordered_json CompletionWriter::logprobs(const CompletionPiece& piece) const {
  if (!request_.logprobs) return nullptr;

  nlohmann::ordered_json tokens = nlohmann::ordered_json::array(), values = nlohmann::ordered_json::array(),
                         tops = nlohmann::ordered_json::array(), ids = nlohmann::ordered_json::array(),
                         offsets = nlohmann::ordered_json::array();
  int64_t offset = piece.offset;
  for (const GeneratedToken& token : piece.tokens) {
    if (token.id == eos_token) continue;
    tokens.push_back(texts_.of(token.id));
    values.push_back(token.log_probability);
    offsets.push_back(offset);
    offset += characters(token.text);
    nlohmann::ordered_json top = nlohmann::ordered_json::object(), top_ids = nlohmann::ordered_json::array();
    for (const Alternative& each : token.alternatives) {
      top[texts_.of(each.id)] = each.log_probability;
      top_ids.push_back(each.id);
    }
    tops.push_back(token.alternatives.empty() ? nlohmann::ordered_json() : std::move(top));
    ids.push_back(std::move(top_ids));
  }
  nlohmann::ordered_json out{
      {"tokens", tokens}, {"token_logprobs", values}, {"top_logprobs", tops}, {"text_offset", offsets}};
  if (request_.token_ids) out["top_token_ids"] = ids;
  return out;
}

nlohmann::ordered_json CompletionWriter::choice(const CompletionPiece& piece) const {
  nlohmann::ordered_json out{{"index", piece.index}, {"text", piece.text}, {"logprobs", logprobs(piece)}};
  out["finish_reason"] = piece.ended ? nlohmann::ordered_json(finish_name(piece.reason)) : nullptr;
  if (!request_.token_ids) return out;
  auto ids = nlohmann::ordered_json::array();
  for (const GeneratedToken& token : piece.tokens) ids.push_back(token.id);
  out["token_ids"] = std::move(ids);
  return out;
}

nlohmann::ordered_json CompletionWriter::answer(nlohmann::ordered_json choices) const {
  return {{"id", id_},
          {"object", "text_completion"},
          {"created", created_},
          {"model", model_},
          {"choices", std::move(choices)}};
}

nlohmann::ordered_json CompletionWriter::usage(int64_t prompt_tokens, int64_t new_tokens) const {
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", new_tokens},
          {"total_tokens", prompt_tokens + new_tokens}};
}

}  // namespace perceiver::serve
