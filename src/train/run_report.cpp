#include "train/run_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/duration.h"
#include "config/schema.h"
#include "model/precision.h"
#include "train/progress.h"

namespace perceiver {
namespace {

/// What the process takes besides tensors once it trains: compiled kernels, stacks, batches. Measured.
constexpr int64_t kWorkingBytes = 16 << 20;

std::string count_text(double count) {
  if (count >= 1e9) return fmt::format("{:.2f}G", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.2f}M", count / 1e6);
  if (count >= 1e4) return fmt::format("{:.1f}k", count / 1e3);
  return fmt::format("{:.0f}", count);
}

std::string ratio_text(double ratio) {
  return ratio < 10 ? fmt::format("{:.2g}", ratio) : count_text(ratio);
}

std::string counted(int64_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

/// The value of a key as the configuration file has it.
std::string value_text(const Config& config, const char* path) {
  for (const ConfigKey& key : config_keys())
    if (key.path == std::string_view(path)) return format_value(key.get(config));
  return "";
}

std::string model_text(const RunHeader& header) {
  const ModelConfig& model = header.config.model;
  std::string text =
      fmt::format("{}, {} parameters, {} of {} channels, context {}", value_text(header.config, "model.type"),
                  count_text(static_cast<double>(header.parameters)), counted(model.layers, "layer"),
                  model.z_channels(), model.context_length);
  if (model.recurrent()) text += fmt::format(", memory {}", model.memory_length);
  if (model.type == ModelType::perceiver_ar) text += fmt::format(", {}", counted(model.latents, "latent"));
  return text;
}

std::string split_text(const RunHeader& header, Split split) {
  const DataRecord::Part& part = header.data.of(split);
  if (part.documents == 0) return fmt::format("no {}", split_name(split));
  return fmt::format("{} {} ({} tokens)", split_name(split), counted(part.documents, "document"),
                     count_text(static_cast<double>(part.tokens)));
}

std::string data_text(const RunHeader& header) {
  if (header.generated) return fmt::format("{}, generated without end", header.modality);
  std::string text = fmt::format("{}: {}, {}, {}", header.modality, split_text(header, Split::train),
                                 split_text(header, Split::validation), split_text(header, Split::test));
  if (header.skipped_files > 0) text += fmt::format("; {} skipped", counted(header.skipped_files, "file"));
  if (header.repaired_files > 0) text += fmt::format("; {} repaired", counted(header.repaired_files, "file"));
  return text;
}

std::string device_text(const RunHeader& header) {
  std::string text = header.device;
  if (!header.gpu) text += ", " + counted(header.threads, "thread");
  text += fmt::format(", {}", header.precision);
  if (header.ranks > 1)
    text += fmt::format("; {} over {}", counted(header.ranks, "rank"), header.communicator);
  if (header.config.train.context_shards > 1)
    text += fmt::format(", the context over {}", header.config.train.context_shards);
  return text;
}

std::string memory_text(const RunHeader& header) {
  const MemoryEstimate& memory = header.memory;
  std::string text = fmt::format("about {}: weights {}, gradients {}, optimizer {}, activations {}",
                                 bytes_text(memory.total() + (header.gpu ? 0 : header.program_bytes)),
                                 bytes_text(memory.weights), bytes_text(memory.gradients),
                                 bytes_text(memory.optimizer), bytes_text(memory.activations));
  if (memory.average > 0) text += fmt::format(", average {}", bytes_text(memory.average));
  if (!header.gpu && header.program_bytes > 0)
    text += fmt::format(", program and data {}", bytes_text(header.program_bytes));
  if (header.available_bytes > 0) text += fmt::format(" (of {})", bytes_text(header.available_bytes));
  return text;
}

std::string steps_text(const RunHeader& header) {
  const Config& config = header.config;
  const int64_t planned = config.planned_steps();
  const double until = config.schedule.until;
  const std::string last =
      until > 0 ? "as many as " + format_duration(until) + " allow," : std::to_string(planned);
  std::string text = fmt::format("{}{} of {}", header.step > 0 ? fmt::format("{} to ", header.step) : "",
                                 last, counted(config.train.batch, "example"));
  if (header.steps_per_epoch > 0) text += fmt::format(", {} to an epoch", count_text(header.steps_per_epoch));
  if (header.steps_per_epoch > 0 && until == 0)
    text += fmt::format(" ({} epochs)", ratio_text(static_cast<double>(planned) / header.steps_per_epoch));
  text += fmt::format("; {}, learning rate {}, {}", value_text(config, "optimizer.type"),
                      value_text(config, "optimizer.learning_rate"), value_text(config, "schedule.type"));
  if (config.schedule.warmup_steps > 0)
    text += fmt::format(" after {} warm-up steps", config.schedule.warmup_steps);
  if (config.train.max_minutes > 0) text += fmt::format("; at most {} minutes", config.train.max_minutes);
  return text;
}

/// See CropSampler: an example trains M of its document's targets, and is drawn in proportion to max(M, T).
double steps_per_epoch(const Config& config, const Dataset& data) {
  if (data.unbounded()) return 0;
  const int64_t predicted = predicted_positions(config.model);
  const auto weight = static_cast<double>(data.weights(Split::train, predicted)->total());
  return weight / static_cast<double>(predicted * config.train.batch);
}

std::string validation_text(const ValidationSummary& validation) {
  EvalEntry entry;
  entry.loss = validation.loss;
  std::string text = fmt::format("{:.4f} nats {:.4f} bits", entry.loss, entry.bits());
  if (validation.bits_per_unit)
    text += fmt::format(", {:.4f} bits per {}", *validation.bits_per_unit, validation.unit);
  return text + fmt::format(" at step {}", validation.step);
}

}  // namespace

std::string bytes_text(int64_t bytes) {
  const auto number = static_cast<double>(bytes);
  if (number >= 1 << 30) return fmt::format("{:.1f} GiB", number / (1 << 30));
  if (number >= 100 << 20) return fmt::format("{:.0f} MiB", number / (1 << 20));
  return fmt::format("{:.1f} MiB", number / (1 << 20));
}

RunHeader make_header(const Config& config, const Dataset& data, const DataRecord& record,
                      const PerceiverAR& model, const Learner& learner, int64_t program_bytes) {
  const DeviceContext& context = model.context();
  RunHeader header;
  header.config = config;
  header.parameters = model.parameters().count();
  header.modality = data.modality();
  header.generated = data.unbounded();
  header.data = record;
  header.skipped_files = static_cast<int64_t>(data.skipped().size());
  header.repaired_files = static_cast<int64_t>(data.repaired().size());
  header.steps_per_epoch = steps_per_epoch(config, data);
  header.device = context.name();
  header.gpu = context.is_cuda();
  header.threads = context.threads();
  header.precision = precision_name(config.train.precision, model.type());
  header.memory = estimate_memory(config, model, learner);
  header.program_bytes = program_bytes + kWorkingBytes;
  header.available_bytes = context.memory()->available() + context.statistics().live_bytes;
  return header;
}

std::vector<std::string> header_lines(const RunHeader& header) {
  std::vector<std::string> lines{"model   " + model_text(header), "data    " + data_text(header),
                                 "device  " + device_text(header), "memory  " + memory_text(header),
                                 "steps   " + steps_text(header)};
  if (!header.folder.empty()) lines.push_back("run     " + header.folder.string());
  return lines;
}

std::vector<std::string> summary_lines(const RunSummary& summary) {
  std::string time = fmt::format("{} of training", duration_text(summary.elapsed));
  if (summary.elapsed - summary.seconds > 1)
    time += fmt::format(", {} of it since resuming", duration_text(summary.seconds));
  if (summary.targets_per_second > 0)
    time += fmt::format(", {} tokens/s", count_text(summary.targets_per_second));
  if (summary.skipped > 0) time += fmt::format(", {} skipped", counted(summary.skipped, "step"));
  std::vector<std::string> lines{time};
  const bool one = summary.best && summary.last && summary.best->step == summary.last->step;
  if (summary.best) lines.push_back("best validation " + validation_text(*summary.best));
  if (summary.last && !one) lines.push_back("last validation " + validation_text(*summary.last));
  if (!summary.best_checkpoint.empty())
    lines.push_back("best checkpoint " + summary.best_checkpoint.string());
  return lines;
}

}  // namespace perceiver
