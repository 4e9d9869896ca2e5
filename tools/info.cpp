// perceiver info: what a checkpoint contains, and the cost of a training step; or the devices.
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/text.h"
#include "config/load.h"
#include "config/save.h"
#include "tools/commands.h"
#include "tools/info.h"
#include "tools/next_steps.h"
#include "train/checkpoint.h"
#include "train/environment.h"

namespace perceiver::program {
namespace {

/// Parameter counts by part: the name up to the second dot for blocks, else to the first.
std::vector<std::pair<std::string, int64_t>> parts(const PerceiverAR& model) {
  std::vector<std::pair<std::string, int64_t>> result;
  for (const ParameterInfo& info : model.parameters().infos()) {
    const size_t first = info.name.find('.');
    const bool block = info.name.starts_with("cross.") || info.name.starts_with("self.");
    const std::string part = info.name.substr(0, block ? info.name.find('.', first + 1) : first);
    if (result.empty() || result.back().first != part) result.emplace_back(part, 0);
    result.back().second += info.elements();
  }
  return result;
}

/// The run's state when it wrote the checkpoint; none for a model file on its own.
std::optional<CheckpointState> state_beside(const std::string& file) {
  const std::filesystem::path folder = std::filesystem::path(file).parent_path();
  if (!std::filesystem::exists(folder / state_file_name)) return std::nullopt;
  return read_checkpoint_state(folder);
}

/// Where a run was started and resumed, oldest first; none for a model file that is not in a run's folder.
std::vector<nlohmann::ordered_json> environments_of(const std::string& file) {
  namespace fs = std::filesystem;
  const fs::path checkpoint = fs::absolute(file).parent_path(), checkpoints = checkpoint.parent_path();
  if (checkpoints.filename() != "checkpoints") return {};
  return read_environment(checkpoints.parent_path());
}

/// The value as text; "unknown" where an earlier version wrote none.
std::string value_of(const nlohmann::ordered_json& stamp, const char* key) {
  const auto found = stamp.find(key);
  if (found == stamp.end()) return "unknown";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

std::string command_of(const nlohmann::ordered_json& stamp) {
  const auto found = stamp.find("command");
  std::vector<std::string> words;
  if (found != stamp.end() && found->is_array())
    for (const auto& word : *found) words.push_back(word.is_string() ? word.get<std::string>() : word.dump());
  return words.empty() ? "unknown" : shell_command(words);
}

void print_environments(const std::vector<nlohmann::ordered_json>& stamps) {
  if (stamps.empty()) return;
  const auto print = [](const char* name, const std::string& text) {
    fmt::print("    {:<26} {}\n", name, printable(text));
  };
  std::printf("\ntrained\n");
  for (const nlohmann::ordered_json& stamp : stamps) {
    const auto value = [&](const char* key) { return value_of(stamp, key); };
    fmt::print("  from step {}\n", printable(value("step")));
    print("started", value("started"));
    print("version", fmt::format("{}, commit {}", value("version"), value("commit")));
    print("device", fmt::format("{} of {}, {}", value("device"), value("host"), value("precision")));
    print("threads, ranks", fmt::format("{}, {}", value("threads"), value("ranks")));
    print("command", command_of(stamp));
  }
}

/// The type of the linear layers' weights, as --weights has it.
std::string weights_name(const PerceiverAR& model) {
  const DType type = model.weight_type();
  return type == DType::e4m3 ? "fp8" : type == DType::i8 ? "int8" : "float32";
}

/// Its first line: the rest may be a whole vocabulary.
std::string tokenizer_name(const std::string& tokenizer) {
  return tokenizer.substr(0, tokenizer.find('\n'));
}

void print_loss(const char* name, const std::optional<double>& nats) {
  if (nats) std::printf("%-28s %.4f nats per token\n", name, *nats);
}

/// The type that a configuration computes in; `auto` as on the CPU, since the run's device is unknown here.
DType type_of(Precision precision) {
  return precision == Precision::bfloat16 || precision == Precision::fp8 ? DType::bf16 : DType::f32;
}

void print_work(const Config& config) {
  const StepWork work = step_work(config, type_of(config.train.precision));
  std::printf("a training step of %lld examples\n  %-28s %s\n  %-28s %.4g GFLOP\n",
              static_cast<long long>(config.train.batch), "context projection", work.path.c_str(),
              "matrix products", work.operations / 1e9);
  if (work.path == "table")
    std::printf("  %-28s %.4g GFLOP, %.1f%% saved\n", "executed", work.executed / 1e9,
                100 * (1 - work.executed / work.operations));
}

nlohmann::ordered_json work_json(const Config& config) {
  const StepWork work = step_work(config, type_of(config.train.precision));
  return {{"batch", config.train.batch},
          {"context_projection", work.path},
          {"gflop", work.operations / 1e9},
          {"executed_gflop", work.executed / 1e9}};
}

/// A configuration has no weights to describe, only the cost of a step.
int print_configuration(const std::string& file, bool json) {
  const Config config = load_config(file, {});
  if (json) {
    const nlohmann::ordered_json out{{"file", file}, {"training_step", work_json(config)}};
    std::printf("%s\n", out.dump(2).c_str());
  } else {
    std::printf("%s\n\n", file.c_str());
    print_work(config);
  }
  return 0;
}

bool is_configuration(const std::string& file) {
  const std::string extension = std::filesystem::path(file).extension().string();
  return extension == ".yaml" || extension == ".yml";
}

void print_text(const LoadedModel& loaded, const std::string& file) {
  const nlohmann::json model = model_to_json(loaded.metadata.model);
  std::printf("%s\n\n%-28s %s\n%-28s %s\n%-28s %s\n%-28s %lld\n", file.c_str(), "modality",
              loaded.metadata.modality.c_str(), "tokenizer",
              tokenizer_name(loaded.metadata.tokenizer).c_str(), "weights",
              weights_name(*loaded.model).c_str(), "training steps",
              static_cast<long long>(loaded.metadata.step));
  if (const auto state = state_beside(file)) {
    print_loss("training loss", state->loss);
    print_loss("validation loss", state->validation_loss);
  }
  std::printf("\nmodel\n");
  for (const auto& [key, value] : model.items())
    std::printf("  %-28s %s\n", key.c_str(), value.dump().c_str());
  std::printf("\nparameters\n");
  for (const auto& [part, count] : parts(*loaded.model))
    std::printf("  %-28s %12lld\n", part.c_str(), static_cast<long long>(count));
  std::printf("  %-28s %12lld\n", "total", static_cast<long long>(loaded.model->parameters().count()));
  print_environments(environments_of(file));
  std::printf("\n");
  print_work(run_config(loaded.metadata, {}));
}

void print_json(const LoadedModel& loaded, const std::string& file) {
  nlohmann::ordered_json out;
  out["file"] = file;
  out["modality"] = loaded.metadata.modality;
  out["tokenizer"] = loaded.metadata.tokenizer;
  out["weights"] = weights_name(*loaded.model);
  out["step"] = loaded.metadata.step;
  if (const auto state = state_beside(file)) {
    if (state->loss) out["loss"] = *state->loss;
    if (state->validation_loss) out["validation_loss"] = *state->validation_loss;
  }
  out["model"] = model_to_json(loaded.metadata.model);
  for (const auto& [part, count] : parts(*loaded.model)) out["parameters"][part] = count;
  out["parameter_count"] = loaded.model->parameters().count();
  out["training_step"] = work_json(run_config(loaded.metadata, {}));
  out["environments"] = environments_of(file);
  std::printf("%s\n", out.dump(2).c_str());
}

}  // namespace

void add_info(CLI::App& app, Globals& globals, Action& action) {
  struct Options {
    std::string checkpoint;
    bool json = false, devices = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "info",
      "Describe a checkpoint: configuration, parameters, tokenizer, cost of a training step; or the devices");
  add_checkpoint(*command, options->checkpoint)
      ->description(
          "Run folder, checkpoint folder, model file, a model's name, or a configuration (YAML) for the cost "
          "of a step");
  command->add_flag("--devices", options->devices,
                    "Instead: the GPUs and libraries of this host, and the launcher of this process");
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(R"(Examples:
  perceiver info runs/book
  perceiver info runs/book --json
  perceiver info configs/quickstart.yaml
  perceiver info --devices)");
  command->callback([options, &globals, &action] {
    action = [options, &globals] {
      if (options->devices && !options->checkpoint.empty())
        throw_usage("--devices is about this host, not about '{}'", options->checkpoint);
      if (options->devices) return print_devices(globals, options->json);
      if (options->checkpoint.empty()) throw_usage("name a checkpoint or a configuration, or add --devices");
      if (is_configuration(options->checkpoint))
        return print_configuration(options->checkpoint, options->json);
      const std::string file = find_checkpoint(options->checkpoint);
      const LoadedModel loaded =
          load_model(file, DeviceContext::cpu(globals.threads), DType::f32, globals.verify);
      options->json ? print_json(loaded, file) : print_text(loaded, file);
      return 0;
    };
  });
}

}  // namespace perceiver::program
