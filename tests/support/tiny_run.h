// Training runs small enough for tests: the copy task of 16 tokens, a model of a few thousand parameters.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/atomic_file.h"
#include "model/model_file.h"
#include "tests/support/temp_folder.h"
#include "train/trainer.h"

namespace perceiver {

inline Config tiny_config(int64_t steps = 8) {
  Config config;
  config.device = "cpu";
  config.threads = 1;
  config.model.context_length = 16;
  config.model.latents = 8;
  config.model.input_channels = 16;
  config.model.layers = 1;
  config.model.cross_heads = config.model.self_heads = 2;
  config.model.cross_widening = config.model.self_widening = 2;
  config.model.zero_initial_logits = false;
  config.data.type = "copy";
  config.data.copy_length = 16;
  config.optimizer.learning_rate = 1e-2;
  config.schedule.type = ScheduleType::cosine;
  config.schedule.warmup_steps = 3;
  config.schedule.decay_steps = 20;
  config.train.steps = steps;
  config.train.batch = 4;
  config.train.seed = 7;
  config.train.log_every = 1;
  config.train.tensorboard = false;
  return config;
}

/// Keeps everything that a run tells.
class Recorder : public TrainObserver {
 public:
  void on_log(const LogEntry& entry) override { logs.push_back(entry); }
  void on_eval(const EvalEntry& entry) override { evals.push_back(entry); }
  void on_checkpoint(int64_t step, const std::filesystem::path&) override { checkpoints.push_back(step); }
  void on_message(Severity severity, const std::string& message) override {
    messages.push_back(message);
    if (severity == Severity::warning) warnings.push_back(message);
  }
  bool told(const std::string& part) const {
    for (const std::string& message : messages)
      if (message.find(part) != std::string::npos) return true;
    return false;
  }

  std::vector<LogEntry> logs;
  std::vector<EvalEntry> evals;
  std::vector<int64_t> checkpoints;
  std::vector<std::string> messages, warnings;
};

inline TrainerOptions run_options(const std::string& folder, bool resume = false,
                                  TrainObserver* observer = nullptr) {
  TrainerOptions options;
  options.folder = folder;
  options.resume = resume;
  options.observer = observer;
  return options;
}

inline TrainResult train(const Config& config, const std::string& folder, bool resume = false,
                         TrainObserver* observer = nullptr) {
  return Trainer(config, run_options(folder, resume, observer)).run();
}

inline std::string checkpoint_path(const std::string& folder, int64_t step) {
  return CheckpointStore(std::filesystem::path(folder) / "checkpoints").path(step).string();
}

/// The steps in the order of the checkpoints' names.
inline std::vector<int64_t> checkpoint_steps(const std::string& folder) {
  return CheckpointStore(std::filesystem::path(folder) / "checkpoints").steps();
}

inline std::string file_bytes(const std::filesystem::path& path) {
  return read_file(path, uint64_t{1} << 30);
}

/// The bytes of a checkpoint's tensors: weights, moving average, optimizer state.
inline std::vector<std::string> checkpoint_bytes(const std::string& folder, int64_t step) {
  std::vector<std::string> files;
  const std::filesystem::path path = checkpoint_path(folder, step);
  for (const char* name : {model_file_name, optimizer_file_name, average_file_name})
    if (std::filesystem::exists(path / name)) files.push_back(file_bytes(path / name));
  return files;
}

/// The numbers in a checkpoint, without the configuration that its files keep too: the weights, their moving
/// average if there is one, and the bytes of the optimizer's state.
struct CheckpointNumbers {
  std::vector<float> weights, average;
  std::string optimizer;
  bool operator==(const CheckpointNumbers&) const = default;
};

inline CheckpointNumbers checkpoint_numbers(const std::string& folder, int64_t step) {
  const std::filesystem::path path = checkpoint_path(folder, step);
  const auto values = [](const std::filesystem::path& file) {
    const LoadedModel loaded = load_model(file, DeviceContext::cpu(1), DType::f32);
    return loaded.model->parameters().values().to_host<float>();
  };
  CheckpointNumbers numbers{values(path / model_file_name), {}, file_bytes(path / optimizer_file_name)};
  if (std::filesystem::exists(path / average_file_name)) numbers.average = values(path / average_file_name);
  return numbers;
}

/// The entries of metrics.jsonl without what depends on the clock.
inline std::vector<nlohmann::json> timeless_metrics(const std::string& folder) {
  std::vector<nlohmann::json> entries;
  std::ifstream input(folder + "/metrics.jsonl");
  for (std::string line; std::getline(input, line);) {
    nlohmann::json entry = nlohmann::json::parse(line);
    for (const char* key :
         {"targets_per_second", "inputs_per_second", "elapsed", "memory_bytes", "validation_seconds"})
      entry.erase(key);
    entries.push_back(entry);
  }
  return entries;
}

/// The message of the Error that `action` throws, which must be of `kind`; otherwise a text that fits none.
template <typename Action>
std::string error_of(ErrorKind kind, Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.kind() == kind ? error.what() : std::string("error of the wrong kind: ") + error.what();
  }
  return "no error";
}

}  // namespace perceiver
