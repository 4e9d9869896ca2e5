#include "serve/content_json.h"

#include <cmath>

#include "io/base64.h"
#include "perceiver/error.h"
#include "serve/http_error.h"

namespace perceiver::serve {
namespace {

constexpr double kLongest = 86'400;  ///< seconds: a day
constexpr int64_t kMostPixels = 1 << 26, kMostLevels = 64;
constexpr int kMostRate = 768'000;

std::string bytes_of(const std::string& base64, const std::string& name) {
  const std::optional<std::string> bytes = from_base64(base64);
  if (!bytes) refuse(400, "{} must be base64 (RFC 4648, with padding)", name);
  return *bytes;
}

/// The members of a list of numbers, each within a range.
template <typename Number>
std::vector<Number> numbers(const nlohmann::json* list, const std::string& name, double least, double most) {
  if (list == nullptr || !list->is_array()) refuse(400, "{} must be a list of numbers", name);
  std::vector<Number> values;
  values.reserve(list->size());
  for (const nlohmann::json& each : *list) {
    const double value = each.is_number() ? each.get<double>() : NAN;
    const bool whole = std::is_floating_point_v<Number> || value == std::floor(value);
    if (!(value >= least && value <= most) || !whole)
      refuse(400, "{}[{}] must be a {} from {} to {}", name, values.size(),
             std::is_floating_point_v<Number> ? "number" : "whole number", least, most);
    values.push_back(static_cast<Number>(value));
  }
  return values;
}

template <typename Value>
Value required(std::optional<Value> value, const std::string& name) {
  if (!value) refuse(400, "{} is missing", name);
  return *value;
}

Note read_note(const nlohmann::json& json, const std::string& where) {
  JsonFields fields(json, where);
  Note note;
  const auto microseconds = [&](const char* name) {
    return static_cast<int64_t>(std::llround(required(fields.number(name, 0, kLongest), where + name) * 1e6));
  };
  note.onset = microseconds("start");
  note.offset = microseconds("end");
  note.pitch = static_cast<int32_t>(required(fields.integer("pitch", 0, 127), where + "pitch"));
  note.velocity = static_cast<int32_t>(fields.integer("velocity", 1, 127).value_or(64));
  fields.finish();
  return note;
}

Notes read_notes(const nlohmann::json& list) {
  if (!list.is_array()) refuse(400, "notes must be a list");
  Notes notes;
  for (const nlohmann::json& each : list)
    notes.push_back(read_note(each, "notes[" + std::to_string(notes.size()) + "]."));
  return notes;
}

Image read_image(const nlohmann::json& json) {
  JsonFields fields(json, "image.");
  const int64_t width = required(fields.integer("width", 1, 16'384), "image.width");
  const int64_t height = required(fields.integer("height", 1, 16'384), "image.height");
  const int64_t channels = fields.integer("channels", 1, 3).value_or(3);
  if (channels == 2) refuse(400, "image.channels must be 1 or 3");
  if (width * height > kMostPixels) refuse(400, "image: {} x {} pixels are too many", width, height);
  Image image;
  image.width = width, image.height = height, image.channels = channels;
  const nlohmann::json* pixels = fields.any("pixels");
  if (pixels != nullptr && pixels->is_string()) {
    const std::string bytes = bytes_of(pixels->get<std::string>(), "image.pixels");
    image.pixels.assign(bytes.begin(), bytes.end());
  } else {
    image.pixels = numbers<uint8_t>(pixels, "image.pixels", 0, 255);
  }
  fields.finish();
  const int64_t count = width * height * channels;
  if (static_cast<int64_t>(image.pixels.size()) != count)
    refuse(400, "image.pixels has {} values; {} x {} pixels of {} channels have {}", image.pixels.size(),
           width, height, channels, count);
  return image;
}

Sound read_sound(const nlohmann::json& json) {
  JsonFields fields(json, "sound.");
  Sound sound;
  sound.rate = static_cast<int>(required(fields.integer("rate", 1, kMostRate), "sound.rate"));
  sound.samples = numbers<float>(fields.any("samples"), "sound.samples", -1, 1);
  fields.finish();
  return sound;
}

Codes read_codes(const nlohmann::json& json) {
  JsonFields fields(json, "codes.");
  Codes codes;
  codes.levels = required(fields.integer("levels", 1, kMostLevels), "codes.levels");
  codes.values = numbers<int32_t>(fields.any("values"), "codes.values", 0, INT32_MAX);
  fields.finish();
  if (static_cast<int64_t>(codes.values.size()) % codes.levels != 0)
    refuse(400, "codes.values has {} codes, which is no multiple of {} levels", codes.values.size(),
           codes.levels);
  return codes;
}

TokenSequence read_ids(const nlohmann::json& list, const nlohmann::json* positions) {
  TokenSequence sequence;
  sequence.ids = numbers<int32_t>(&list, "ids", 0, INT32_MAX);
  if (positions != nullptr) sequence.positions = numbers<int32_t>(positions, "positions", 0, INT32_MAX);
  sequence.units = static_cast<int64_t>(sequence.ids.size());
  return sequence;
}

TokenSequence read_encoded_file(const nlohmann::json& file, const Tokenizer& tokenizer) {
  if (!file.is_string()) refuse(400, "file must be base64 (RFC 4648, with padding)");
  std::vector<TokenSequence> documents =
      tokenizer.encode_bytes(bytes_of(file.get<std::string>(), "file"), "file");
  if (documents.empty()) refuse(400, "file: has no content");
  return std::move(documents.front());
}

/// The seven members that hold content, of which one may be given.
TokenSequence content_of(const std::string& name, const nlohmann::json& value,
                         const nlohmann::json* positions, const Tokenizer& tokenizer) {
  if (name == "file") return read_encoded_file(value, tokenizer);
  if (name == "notes") return tokenizer.encode(read_notes(value));
  if (name == "image") return tokenizer.encode(read_image(value));
  if (name == "sound") return tokenizer.encode(read_sound(value));
  if (name == "codes") return tokenizer.encode(read_codes(value));
  if (name == "ids") return tokenizer.encode(read_ids(value, positions));
  if (!value.is_string()) refuse(400, "text must be a string");
  return tokenizer.encode(value.get<std::string>());
}

std::string_view octets(const std::vector<uint8_t>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

struct ContentWriter {
  using Json = nlohmann::ordered_json;
  Json operator()(const std::string& text) const { return {{"text", text}}; }
  Json operator()(const Image& image) const {
    return {{"image",
             {{"width", image.width},
              {"height", image.height},
              {"channels", image.channels},
              {"pixels", to_base64(octets(image.pixels))}}}};
  }
  Json operator()(const Notes& notes) const {
    Json list = Json::array();
    for (const Note& note : notes) list.push_back(write_note(note));
    return {{"notes", std::move(list)}};
  }
  Json operator()(const Sound& sound) const {
    Json samples = Json::array();
    for (const float sample : sound.samples) samples.push_back(std::round(sample * 1e5) / 1e5);
    return {{"sound", {{"rate", sound.rate}, {"samples", std::move(samples)}}}};
  }
  Json operator()(const Codes& codes) const {
    return {{"codes", {{"levels", codes.levels}, {"values", codes.values}}}};
  }
  Json operator()(const TokenSequence& sequence) const { return {{"ids", sequence.ids}}; }
};

}  // namespace

std::optional<TokenSequence> read_content(JsonFields& fields, const Tokenizer& tokenizer) {
  std::optional<TokenSequence> content;
  std::string given;
  const nlohmann::json* positions = fields.any("positions");
  for (const char* name : {"text", "notes", "image", "sound", "codes", "ids", "file"}) {
    const nlohmann::json* value = fields.any(name);
    if (value == nullptr) continue;
    if (!given.empty()) refuse(400, "{} and {} are given; give one of them", given, name);
    given = name;
    content = content_of(name, *value, positions, tokenizer);
  }
  return content;
}

nlohmann::ordered_json write_note(const Note& note) {
  return {{"start", static_cast<double>(note.onset) / 1e6},
          {"end", static_cast<double>(note.offset) / 1e6},
          {"pitch", note.pitch},
          {"velocity", note.velocity}};
}

nlohmann::ordered_json write_content(const Content& content) {
  return std::visit(ContentWriter(), content);
}

}  // namespace perceiver::serve
