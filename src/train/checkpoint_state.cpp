#include "train/checkpoint_state.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/text.h"
#include "config/load.h"
#include "config/save.h"
#include "io/checksum.h"
#include "io/json_document.h"
#include "perceiver/version.h"

namespace perceiver {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "perceiver checkpoint";
constexpr int kFormatVersion = 1;

uint64_t from_hexadecimal(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size()) throw_user("'{}' is not a checksum", text);
  return value;
}

std::string checksum_of(const json& document) {
  const std::string text = document.dump();
  return hexadecimal(perceiver::checksum_of(std::as_bytes(std::span(text.data(), text.size()))));
}

json optional_number(const std::optional<double>& value) {
  return value ? json(*value) : json(nullptr);
}

std::optional<double> read_optional(const json& value) {
  if (value.is_null()) return std::nullopt;
  return value.get<double>();
}

json sums_to_json(const LossSums& sums) {
  return {{"loss", sums.loss},
          {"nll", sums.nll},
          {"z_loss", sums.z_loss},
          {"correct", sums.correct},
          {"targets", sums.targets}};
}

LossSums sums_from_json(const json& value) {
  return {value.at("loss").get<double>(), value.at("nll").get<double>(), value.at("z_loss").get<double>(),
          value.at("correct").get<double>(), value.at("targets").get<int64_t>()};
}

int64_t count(const json& value) {
  if (!value.is_number_integer()) throw_user("{} is not a count", value.dump());
  const auto number = value.get<int64_t>();
  if (number < 0) throw_user("{} is not a count", number);
  return number;
}

json patience_to_json(const Patience& patience) {
  return {{"reference", optional_number(patience.reference)}, {"validations", patience.validations}};
}

Patience patience_from_json(const json& value) {
  return {read_optional(value.at("reference")), count(value.at("validations"))};
}

ClippedSteps clipping_from_json(const json& value) {
  return {count(value.at("steps")), count(value.at("clipped"))};
}

json data_to_json(const DataRecord& data) {
  json splits;
  for (const Split split : {Split::train, Split::validation, Split::test})
    splits[std::string(split_name(split))] = {{"documents", data.of(split).documents},
                                              {"tokens", data.of(split).tokens}};
  return {{"fingerprint", hexadecimal(data.fingerprint)}, {"splits", splits}};
}

DataRecord data_from_json(const json& value) {
  DataRecord data{.fingerprint = from_hexadecimal(value.at("fingerprint").get<std::string>()), .splits = {}};
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const json& part = value.at("splits").at(std::string(split_name(split)));
    data.splits[static_cast<size_t>(split)] = {count(part.at("documents")), count(part.at("tokens"))};
  }
  return data;
}

ParsedState read_document(const json& document, const std::string& source) {
  ParsedState parsed;
  CheckpointState& state = parsed.state;
  state.step = count(document.at("step"));
  state.updates = count(document.at("updates"));
  state.skipped = count(document.at("skipped"));
  state.elapsed = document.at("elapsed_seconds").get<double>();
  state.loss = read_optional(document.at("loss"));
  state.validation_loss = read_optional(document.at("validation_loss"));
  // Checkpoints without these two are from runs that ended with their validation or had none.
  state.rejected = document.value("skipped_in_a_row", int64_t{0});
  state.validated = document.value("validated_step", state.step);
  if (const json& best = document.at("best"); !best.is_null())
    state.best = BestValidation{count(best.at("step")), best.at("validation_loss").get<double>()};
  state.interval = sums_from_json(document.at("interval"));
  // Older checkpoints lack these.
  if (document.contains("clipping")) state.clipping = clipping_from_json(document["clipping"]);
  if (document.contains("early_stopping")) state.patience = patience_from_json(document["early_stopping"]);
  if (document.contains("data")) state.data = data_from_json(document["data"]);
  state.config = config_from_json(document.at("config").dump(), source);
  for (const auto& [name, record] : document.at("files").items())
    parsed.files[name] = {record.at("bytes").get<uint64_t>(),
                          from_hexadecimal(record.at("xxh3_64").get<std::string>())};
  return parsed;
}

json parse_state(std::string_view text, const std::string& source) {
  try {
    json document = parse_json_document(text, source);
    if (document.is_object()) return document;
  } catch (const Error& error) {
    throw CheckpointDamage(fmt::format("{}; not the state of a checkpoint", error.what()));
  }
  throw CheckpointDamage(fmt::format("{}: not the state of a checkpoint", source));
}

/// Before the checksum, which a newer version may compute differently.
void check_version(const json& document, const std::string& source) {
  const auto version = document.find("format_version");
  if (version == document.end() || !version->is_number_integer() || *version <= kFormatVersion) return;
  throw_user("{}: format version {} of a newer program; this one reads version {}", source, version->dump(),
             kFormatVersion);
}

void check_checksum(json& document, const std::string& source) {
  const json checksum = document.value("checksum", json());
  document.erase("checksum");
  if (checksum != checksum_of(document))
    throw CheckpointDamage(fmt::format("{}: its checksum does not match its content", source));
  if (document.at("format") != kFormat || document.at("format_version") != kFormatVersion)
    throw_user("{}: not of format '{}', version {}", source, kFormat, kFormatVersion);
}

}  // namespace

std::string state_to_json(const CheckpointState& state, const std::map<std::string, FileRecord>& files) {
  json document{{"format", kFormat},
                {"format_version", kFormatVersion},
                {"library_version", version()},
                {"step", state.step},
                {"updates", state.updates},
                {"skipped", state.skipped},
                {"skipped_in_a_row", state.rejected},
                {"elapsed_seconds", state.elapsed},
                {"data_cursor", {{"next_step", state.step}, {"split", "train"}}},
                {"seeds", {{"train", state.config.train.seed}, {"data", state.config.data.seed}}},
                {"loss", optional_number(state.loss)},
                {"validation_loss", optional_number(state.validation_loss)},
                {"validated_step", state.validated},
                {"best", nullptr},
                {"interval", sums_to_json(state.interval)},
                {"clipping", {{"steps", state.clipping.steps}, {"clipped", state.clipping.clipped}}},
                {"early_stopping", patience_to_json(state.patience)},
                {"data", data_to_json(state.data)},
                {"moving_average", state.config.train.ema_decay > 0},
                {"config", config_to_json(state.config)},
                {"files", json::object()}};
  if (state.best) document["best"] = {{"step", state.best->step}, {"validation_loss", state.best->loss}};
  for (const auto& [name, record] : files)
    document["files"][name] = {{"bytes", record.bytes}, {"xxh3_64", hexadecimal(record.checksum)}};
  document["checksum"] = checksum_of(document);
  return document.dump(2) + "\n";
}

ParsedState state_from_json(std::string_view text, const std::string& source) {
  try {
    json document = parse_state(text, source);
    check_version(document, source);
    check_checksum(document, source);
    return read_document(document, source);
  } catch (const json::exception& error) {
    throw_user("{}: not the state of a checkpoint: {}", source, printable(error.what()));
  }
}

}  // namespace perceiver
