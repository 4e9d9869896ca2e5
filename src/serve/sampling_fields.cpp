#include "serve/sampling_fields.h"

#include <charconv>
#include <random>

#include "base/text.h"
#include "serve/http_error.h"

namespace perceiver::serve {
namespace {

constexpr double kMostTemperature = 100, kMostBias = 100;

int32_t token_id(const std::string& text, int64_t vocabulary) {
  int32_t id = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size() || id < 0 || id >= vocabulary)
    refuse(400, "logit_bias: {} is no token id; the ids are 0 to {}", quote(text), vocabulary - 1);
  return id;
}

std::vector<std::pair<int32_t, float>> read_biases(JsonFields& fields, int64_t vocabulary) {
  std::vector<std::pair<int32_t, float>> biases;
  const nlohmann::json* given = fields.any("logit_bias");
  if (given == nullptr) return biases;
  JsonFields values(*given, "logit_bias.");
  for (const auto& [name, value] : given->items())
    if (const auto bias = values.number(name, -kMostBias, kMostBias))
      biases.emplace_back(token_id(name, vocabulary), static_cast<float>(*bias));
  return biases;
}

}  // namespace

GenerateOptions read_sampling(JsonFields& fields, const TokenizerInfo& data, const Limits& limits,
                              int64_t tokens) {
  GenerateOptions options;
  options.tokens = fields.integer("max_tokens", 0, limits.max_tokens).value_or(tokens);
  options.temperature = fields.number("temperature", 0, kMostTemperature).value_or(1);
  options.top_p = fields.number("top_p", 0, 1).value_or(1);
  if (options.top_p == 0) options.top_k = 1;  // the likeliest token alone
  if (options.top_p == 0) options.top_p = 1;
  options.top_k = fields.integer("top_k", 0, INT32_MAX).value_or(options.top_k);
  options.min_p = fields.number("min_p", 0, 1).value_or(0);
  options.repetition_penalty = fields.number("repetition_penalty", 0.01, 100).value_or(1);
  const std::optional<int64_t> seed = fields.integer("seed", INT64_MIN, INT64_MAX);
  options.seed = seed ? static_cast<uint64_t>(*seed) : std::random_device()();
  options.ignore_eos = fields.flag("ignore_eos").value_or(false);
  options.logit_bias = read_biases(fields, data.vocabulary);
  return options;
}

}  // namespace perceiver::serve
