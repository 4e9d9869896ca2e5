#include "serve/generate_request.h"

#include <algorithm>
#include <cmath>

#include "io/base64.h"
#include "serve/completion_request.h"
#include "serve/content_json.h"
#include "serve/http_error.h"
#include "serve/sampling_fields.h"

namespace perceiver::serve {
namespace {

constexpr int64_t kDefaultNewTokens = 256;
constexpr double kLongestBeginning = 86'400;  ///< seconds: a day

/// What begins within the first seconds.
Content first_seconds(Content content, double seconds) {
  if (auto* notes = std::get_if<Notes>(&content)) {
    const auto end = static_cast<int64_t>(seconds * 1e6);
    std::erase_if(*notes, [&](const Note& note) { return note.onset >= end; });
    for (Note& note : *notes) note.offset = std::min(note.offset, end);
    return content;
  }
  auto* sound = std::get_if<Sound>(&content);
  if (sound == nullptr) refuse(400, "seconds is for music and audio");
  const auto samples = static_cast<size_t>(std::llround(seconds * sound->rate));
  sound->samples.resize(std::min(samples, sound->samples.size()));
  return content;
}

std::vector<uint8_t> read_known(const nlohmann::json& value, int64_t pixels) {
  std::vector<uint8_t> known;
  if (value.is_string()) {
    const auto bytes = from_base64(value.get<std::string>());
    if (bytes) known.assign(bytes->begin(), bytes->end());
  }
  if (value.is_array())
    for (const nlohmann::json& each : value)
      known.push_back(each.is_number() && each.get<double>() != 0 ? 1
                      : each.is_boolean() && each.get<bool>()     ? 1
                                                                  : 0);
  if (static_cast<int64_t>(known.size()) != pixels)
    refuse(400,
           "known must have one value for each of the {} pixels of the model: a list, or bytes in base64",
           pixels);
  return known;
}

std::vector<uint8_t> first_rows(int64_t rows, const TokenizerInfo& data) {
  std::vector<uint8_t> known(static_cast<size_t>(data.width * data.height), 0);
  std::fill_n(known.begin(), static_cast<size_t>(rows * data.width), uint8_t{1});
  return known;
}

/// The part of the content that is given, and what is to be added to it.
void read_prompt(JsonFields& fields, const Tokenizer& tokenizer, GenerateRequest& request) {
  const TokenizerInfo& data = tokenizer.info();
  const std::optional<TokenSequence> content = read_content(fields, tokenizer);
  const std::optional<double> seconds = fields.number("seconds", 0, kLongestBeginning);
  const std::optional<int64_t> rows = fields.integer("rows", 0, std::max<int64_t>(data.height, 1));
  const nlohmann::json* known = fields.any("known");
  if (!content && (seconds || rows || known != nullptr))
    refuse(400, "seconds, rows and known are parts of something; give a file or values too");
  if (!content) {
    request.prompt = tokenizer.prompt();
    return;
  }
  request.beginning = *content;
  if (seconds && *seconds > 0)
    request.beginning = tokenizer.encode(first_seconds(tokenizer.decode(*content), *seconds));
  if (rows || known != nullptr) {
    if (data.modality != "image") refuse(400, "rows and known are for images");
    const Image image = std::get<Image>(tokenizer.decode(*content));
    request.prompt = tokenizer.complete(
        image, known != nullptr ? read_known(*known, data.width * data.height) : first_rows(*rows, data));
    return;
  }
  request.prompt = tokenizer.prompt(request.beginning);
}

void read_file_type(JsonFields& fields, const TokenizerInfo& data, GenerateRequest& request) {
  request.raw = fields.flag("raw").value_or(false);
  const std::optional<std::string> file = fields.text("file_type");
  if (request.raw && !file) refuse(400, "raw needs file_type");
  if (request.raw && request.n != 1) refuse(400, "raw answers with one file; n must be 1");
  if (request.raw && request.stream) refuse(400, "raw and stream exclude each other");
  if (!file) return;
  request.file = file->starts_with(".") ? *file : "." + *file;
  if (std::find(data.writes.begin(), data.writes.end(), request.file) == data.writes.end())
    refuse(400, "file_type: models of {} write {}", data.modality, fmt::join(data.writes, ", "));
}

}  // namespace

GenerateRequest parse_generate(const nlohmann::json& body, const Tokenizer& tokenizer, int64_t context,
                               const Limits& limits) {
  JsonFields fields(body);
  GenerateRequest request;
  (void)fields.text("model");
  request.n = fields.integer("n", 1, limits.sequences).value_or(1);
  request.stream = fields.flag("stream").value_or(false);
  request.options = read_sampling(fields, tokenizer.info(), limits, 0);
  read_prompt(fields, tokenizer, request);
  read_file_type(fields, tokenizer.info(), request);
  fields.finish();
  const int64_t longest = std::max(prompt_limit(limits, context), tokenizer.info().fixed_length);
  if (static_cast<int64_t>(request.prompt.tokens.size()) > longest + 1)
    refuse(400, "the beginning has {} tokens; the most are {}", request.prompt.tokens.size() - 1, longest);
  if (request.options.tokens == 0)
    request.options.tokens = request.prompt.remaining > 0 ? request.prompt.remaining : kDefaultNewTokens;
  return request;
}

}  // namespace perceiver::serve
