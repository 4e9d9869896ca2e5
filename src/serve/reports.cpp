#include "serve/reports.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string>

#include "perceiver/version.h"

namespace perceiver::serve {
namespace {

/// How samples are best drawn, by the names of requests' fields.
nlohmann::ordered_json sampling_of(const ModelInfo& info) {
  auto fields = nlohmann::ordered_json::object();
  const auto options = nlohmann::ordered_json::parse(info.sampling, nullptr, false);
  if (!options.is_object()) return fields;
  for (const auto& [option, value] : options.items()) {
    std::string name = option == "tokens" ? "max_tokens" : option;
    std::replace(name.begin(), name.end(), '-', '_');
    fields[name] = value;
  }
  return fields;
}

nlohmann::ordered_json as_json(const ServedModel& model) {
  const TokenizerInfo& data = model.data();
  const ModelInfo& info = model.model.info();
  const SchedulerStatus status = model.scheduler.status();
  nlohmann::ordered_json out{{"id", model.name},
                             {"object", "model"},
                             {"created", 0},
                             {"owned_by", "perceiver"},
                             {"modality", data.modality},
                             {"vocabulary", data.vocabulary},
                             {"unit", data.unit},
                             {"context_length", model.model.config().context_length},
                             {"latents", model.model.config().latents},
                             {"parameters", info.parameters},
                             {"step", info.step},
                             {"device", info.device},
                             {"precision", info.precision},
                             {"slots", status.slots},
                             {"active", status.active},
                             {"queued", status.queued},
                             {"reads", data.reads},
                             {"writes", data.writes},
                             {"sampling", sampling_of(info)}};
  if (data.width > 0)
    out["image"] = {{"width", data.width}, {"height", data.height}, {"channels", data.channels}};
  if (data.sample_rate > 0) out["sample_rate"] = data.sample_rate;
  return out;
}

/// Label values are quoted: backslash, quote and line end are escaped.
std::string label(const std::string& value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out;
}

class MetricsText {
 public:
  void head(const char* name, const char* type, const char* help) {
    fmt::format_to(std::back_inserter(text_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  void value(const char* name, const std::string& labels, double number) {
    fmt::format_to(std::back_inserter(text_), "{}{{{}}} {}\n", name, labels, number);
  }
  void histogram(const char* name, const std::string& labels, const Histogram& histogram) {
    for (size_t i = 0; i < Histogram::kBounds.size(); ++i)
      value(fmt::format("{}_bucket", name).c_str(),
            fmt::format("{},le=\"{}\"", labels, Histogram::kBounds[i]),
            static_cast<double>(histogram.up_to(i)));
    const auto count = static_cast<double>(histogram.up_to(Histogram::kBounds.size()));
    value(fmt::format("{}_bucket", name).c_str(), labels + ",le=\"+Inf\"", count);
    value(fmt::format("{}_sum", name).c_str(), labels, histogram.sum());
    value(fmt::format("{}_count", name).c_str(), labels, count);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

std::string labels_of(const ServedModel& model) {
  return fmt::format("model=\"{}\"", label(model.name));
}

struct StatusMetric {
  const char *name, *type, *help;
  int64_t SchedulerStatus::*member;
};
constexpr StatusMetric kStatusMetrics[] = {
    {"perceiver_slots", "gauge", "Sequences that grow at once.", &SchedulerStatus::slots},
    {"perceiver_active_sequences", "gauge", "Sequences that have a slot.", &SchedulerStatus::active},
    {"perceiver_queue_length", "gauge", "Sequences that wait for a slot.", &SchedulerStatus::queued},
    {"perceiver_generated_tokens_total", "counter", "New tokens.", &SchedulerStatus::tokens},
    {"perceiver_cancelled_requests_total", "counter", "Requests given up before their end.",
     &SchedulerStatus::cancelled},
};

}  // namespace

Reply list_models(const ServedModels& models) {
  auto data = nlohmann::ordered_json::array();
  for (const auto& model : models) data.push_back(as_json(*model));
  return json_reply({{"object", "list"}, {"data", std::move(data)}});
}

Reply show_metrics(const ServedModels& models, const RequestCounts& requests) {
  MetricsText text;
  text.head("perceiver_requests_total", "counter", "Answered requests.");
  for (const auto& [key, count] : requests.all())
    text.value("perceiver_requests_total",
               fmt::format("path=\"{}\",status=\"{}\"", label(key.first), key.second),
               static_cast<double>(count));
  for (const StatusMetric& metric : kStatusMetrics) {
    text.head(metric.name, metric.type, metric.help);
    for (const auto& model : models)
      text.value(metric.name, labels_of(*model),
                 static_cast<double>(model->scheduler.status().*metric.member));
  }
  text.head("perceiver_first_token_seconds", "histogram", "From a request to its first token.");
  for (const auto& model : models)
    text.histogram("perceiver_first_token_seconds", labels_of(*model), model->scheduler.first_token());
  return {"text/plain; version=0.0.4; charset=utf-8", text.take(), nullptr, {}};
}

Reply show_health(const ServedModels& models, bool runs) {
  return json_reply({{"status", "ok"}, {"version", version()}, {"models", models.size()}, {"runs", runs}});
}

}  // namespace perceiver::serve
