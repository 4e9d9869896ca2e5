// Any body of a request is either refused with one sentence or is a request within the limits.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "perceiver/error.h"
#include "serve/completion_request.h"
#include "serve/generate_request.h"
#include "serve/http_error.h"
#include "serve/json_fields.h"

namespace {

using namespace perceiver;
using namespace perceiver::serve;

void require(bool condition) {
  if (!condition) std::abort();
}

const Limits limits{.prompt_tokens = 100};

void check_options(const GenerateOptions& options) {
  require(options.tokens >= 0 && options.tokens <= limits.max_tokens);
  require(options.temperature >= 0 && options.top_p > 0 && options.top_p <= 1 && options.top_k >= 0);
  for (const auto& [id, value] : options.logit_bias)
    require(id >= 0 && id < 259 && value >= -100 && value <= 100);
}

void complete(const nlohmann::json& body) {
  static const Tokenizer text = Tokenizer::restore("text", "");
  const CompletionRequest request = parse_completion(body, text, 64, limits);
  check_options(request.options);
  require(static_cast<int64_t>(request.prompts.size()) * request.n <= limits.sequences);
  for (const TokenSequence& prompt : request.prompts) require(prompt.ids.size() <= 100);
}

void generate(const nlohmann::json& body, const Tokenizer& tokenizer) {
  const GenerateRequest request = parse_generate(body, tokenizer, 64, limits);
  check_options(request.options);
  require(request.n <= limits.sequences && request.prompt.tokens.size() <= 101);
}

template <typename Parse>
void refused_or_fine(const Parse& parse) {
  try {
    parse();
  } catch (const HttpError& error) {
    require(error.status == 400 && *error.what() != '\0');
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::user);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer music = Tokenizer::restore("music", ""), image = Tokenizer::restore("image", "");
  nlohmann::json body;
  try {
    body = parse_body({reinterpret_cast<const char*>(data), size});
  } catch (const HttpError&) {
    return 0;
  }
  refused_or_fine([&] { complete(body); });
  refused_or_fine([&] { generate(body, music); });
  refused_or_fine([&] { generate(body, image); });
  return 0;
}
