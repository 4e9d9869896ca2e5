#include "serve/completion_request.h"

#include <algorithm>

#include "serve/http_error.h"
#include "serve/sampling_fields.h"

namespace perceiver::serve {
namespace {

constexpr int64_t kDefaultTokens = 16;  // OpenAI's
constexpr int64_t kLeastPromptLimit = 65'536;
constexpr int64_t kMostAlternatives = 20;
constexpr size_t kMostStops = 16, kLongestStop = 1000;
constexpr const char* kPromptKinds =
    "prompt must be a string, a list of strings, a list of token ids or a list of such lists";

TokenSequence read_ids(const nlohmann::json& list, int64_t vocabulary) {
  TokenSequence sequence;
  for (const nlohmann::json& value : list) {
    const bool whole = value.is_number_unsigned();
    const uint64_t id = whole ? value.get<uint64_t>() : 0;
    if (!whole || id < special_tokens || id >= static_cast<uint64_t>(vocabulary))
      refuse(400, "prompt: {} is no token of the data; their ids are {} to {}", value.dump(), special_tokens,
             vocabulary - 1);
    sequence.ids.push_back(static_cast<int32_t>(id));
  }
  return sequence;
}

TokenSequence read_prompt(const nlohmann::json& value, const Tokenizer& tokenizer) {
  if (value.is_string()) return tokenizer.encode(value.get<std::string>());
  if (!value.is_array()) refuse(400, "{}", kPromptKinds);
  return read_ids(value, tokenizer.info().vocabulary);
}

std::vector<TokenSequence> read_prompts(const nlohmann::json* value, const Tokenizer& tokenizer) {
  if (value == nullptr) return {TokenSequence{}};
  if (!value->is_array() || value->empty() || value->front().is_number())
    return {read_prompt(*value, tokenizer)};
  std::vector<TokenSequence> prompts;
  for (const nlohmann::json& each : *value) prompts.push_back(read_prompt(each, tokenizer));
  return prompts;
}

void add_stop(const nlohmann::json& value, std::vector<std::string>& stops) {
  if (!value.is_string()) refuse(400, "stop must be a string or a list of strings");
  const std::string stop = value.get<std::string>();
  if (stop.empty() || stop.size() > kLongestStop)
    refuse(400, "stop: a stop string must have 1 to {} bytes", kLongestStop);
  stops.push_back(stop);
}

std::vector<std::string> read_stops(JsonFields& fields) {
  std::vector<std::string> stops;
  const nlohmann::json* value = fields.any("stop");
  if (value == nullptr) return stops;
  if (!value->is_array()) add_stop(*value, stops);
  if (value->is_array() && value->size() > kMostStops) refuse(400, "stop: at most {} strings", kMostStops);
  if (value->is_array())
    for (const nlohmann::json& each : *value) add_stop(each, stops);
  return stops;
}

/// Members of OpenAI's interface that say nothing here, or are not offered.
void read_foreign(JsonFields& fields, int64_t n) {
  (void)fields.text("user");
  if (fields.integer("best_of", 1, INT32_MAX).value_or(n) != n)
    refuse(400, "best_of is not offered; ask for n continuations and compare their log-probabilities");
  if (!fields.text("suffix").value_or("").empty())
    refuse(400, "suffix is not offered: the models only continue");
  for (const char* name : {"presence_penalty", "frequency_penalty"})
    if (fields.number(name, -2, 2).value_or(0) != 0)
      refuse(400, "{} is not offered; use repetition_penalty", name);
}

bool read_usage(JsonFields& fields) {
  const nlohmann::json* given = fields.any("stream_options");
  if (given == nullptr) return false;
  JsonFields options(*given, "stream_options.");
  const bool usage = options.flag("include_usage").value_or(false);
  (void)options.flag("include_obfuscation");
  options.finish();
  return usage;
}

void check_sizes(const CompletionRequest& request, int64_t context, const Limits& limits) {
  const auto sequences = static_cast<int64_t>(request.prompts.size()) * request.n;
  if (sequences > limits.sequences)
    refuse(400, "{} continuations in one request; the most are {}", sequences, limits.sequences);
  const int64_t longest = prompt_limit(limits, context);
  for (const TokenSequence& prompt : request.prompts)
    if (static_cast<int64_t>(prompt.ids.size()) > longest)
      refuse(400, "the prompt has {} tokens; the most are {}", prompt.ids.size(), longest);
  if (request.options.tokens == 0 && !request.echo)
    refuse(400, "max_tokens 0 needs echo: there would be nothing to answer");
}

}  // namespace

int64_t prompt_limit(const Limits& limits, int64_t context) {
  return limits.prompt_tokens > 0 ? limits.prompt_tokens : std::max(context, kLeastPromptLimit);
}

CompletionRequest parse_completion(const nlohmann::json& body, const Tokenizer& tokenizer, int64_t context,
                                   const Limits& limits) {
  JsonFields fields(body);
  CompletionRequest request;
  (void)fields.text("model");
  request.options = read_sampling(fields, tokenizer.info(), limits, kDefaultTokens);
  request.prompts = read_prompts(fields.any("prompt"), tokenizer);
  request.n = fields.integer("n", 1, limits.sequences).value_or(1);
  request.options.stop = read_stops(fields);
  const std::optional<int64_t> logprobs = fields.integer("logprobs", 0, kMostAlternatives);
  request.logprobs = logprobs.has_value();
  request.options.alternatives = logprobs.value_or(0);
  request.echo = fields.flag("echo").value_or(false);
  request.stream = fields.flag("stream").value_or(false);
  request.usage = read_usage(fields);
  request.token_ids = fields.flag("return_token_ids").value_or(false);
  read_foreign(fields, request.n);
  fields.finish();
  check_sizes(request, context, limits);
  return request;
}

}  // namespace perceiver::serve
