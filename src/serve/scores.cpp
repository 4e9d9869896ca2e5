#include "serve/scores.h"

#include <numbers>

#include "serve/content_json.h"
#include "serve/http_error.h"
#include "serve/watched_score.h"

namespace perceiver::serve {
namespace {

constexpr size_t kMostTokens = 1 << 18;  ///< of all documents of a request

TokenSequence read_document(const nlohmann::json& value, const std::string& where,
                            const Tokenizer& tokenizer) {
  if (value.is_string()) return tokenizer.encode(value.get<std::string>());
  JsonFields fields(value, where);
  const std::optional<TokenSequence> content = read_content(fields, tokenizer);
  fields.finish();
  if (!content) refuse(400, "{}: no content; give text, notes, image, sound, codes, ids or file", where);
  return *content;
}

nlohmann::ordered_json as_json(const ServedModel& model, size_t index, const TokenSequence& document,
                               const Score& score) {
  nlohmann::ordered_json ids(document.ids), texts = nlohmann::ordered_json::array();
  if (score.log_probabilities.size() > document.ids.size()) ids.push_back(eos_token);
  nlohmann::ordered_json out{{"index", index}, {"token_ids", ids}};
  if (model.texts)
    for (const auto& id : ids) texts.push_back(model.texts->of(id.get<int32_t>()));
  if (model.texts) out["tokens"] = std::move(texts);
  out["token_logprobs"] = score.log_probabilities;
  out["sum"] = -score.nats;
  out["bits_per_unit"] = score.bits_per_byte();
  out["unit"] = model.data().unit;
  return out;
}

}  // namespace

ScoreRequest parse_score(const nlohmann::json& body, const Tokenizer& tokenizer, const Limits& limits) {
  JsonFields fields(body);
  ScoreRequest request;
  (void)fields.text("model");
  request.options.stride = fields.integer("stride", 0, INT32_MAX).value_or(0);
  const nlohmann::json* input = fields.any("input");
  fields.finish();
  if (input == nullptr) refuse(400, "input is missing: a document, or a list of them");
  if (!input->is_array()) request.documents.push_back(read_document(*input, "input.", tokenizer));
  if (input->is_array() && static_cast<int64_t>(input->size()) > limits.sequences)
    refuse(400, "input has {} documents; the most are {}", input->size(), limits.sequences);
  if (input->is_array())
    for (const nlohmann::json& each : *input)
      request.documents.push_back(
          read_document(each, "input[" + std::to_string(request.documents.size()) + "].", tokenizer));
  if (request.documents.empty()) refuse(400, "input has no documents");
  size_t tokens = 0;
  for (const TokenSequence& document : request.documents) tokens += document.ids.size();
  if (tokens > kMostTokens) refuse(400, "input has {} tokens; the most are {}", tokens, kMostTokens);
  return request;
}

Reply score(ServedModel& model, const ScoreRequest& request, const std::function<bool()>& gone,
            const Limits& limits) {
  const std::vector<Score> scores =
      score_watched(model, request.documents, request.options, gone, limits.seconds);
  auto data = nlohmann::ordered_json::array();
  size_t tokens = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    tokens += request.documents[i].ids.size();
    data.push_back(as_json(model, i, request.documents[i], scores[i]));
  }
  return json_reply({{"object", "list"},
                     {"model", model.name},
                     {"data", std::move(data)},
                     {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}});
}

}  // namespace perceiver::serve
