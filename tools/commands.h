// The program's subcommands. Each file of this folder adds one to the parser, with the function that runs it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "data/dataset.h"
#include "generate/engine.h"
#include "model/model_file.h"
#include "perceiver/config.h"
#include "tools/log.h"

namespace perceiver::program {

/// Options of every subcommand.
struct Globals {
  int threads = 0;  ///< 0 = all
  LogOptions log;
  bool verify = true;      ///< compare model files with their checksums
  std::string device;      ///< "auto", "cpu" or "cuda"; empty: that of the configuration, else auto
  std::string gpus;        ///< ranks to start: a number or "all"; empty: none
  std::string rendezvous;  ///< where the ranks meet; empty: the launcher says it
  int start_timeout = 300, collective_timeout = 600;  ///< seconds
};

/// A mistake in the command line, found after it was parsed; the message is followed by where help is.
struct UsageError : Error {
  explicit UsageError(const std::string& message) : Error(ErrorKind::user, message) {}
};
template <typename... Args>
[[noreturn]] void throw_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw UsageError(fmt::format(format, std::forward<Args>(args)...));
}

/// The function to call once the command line has been parsed.
using Action = std::function<int()>;
void add_bench(CLI::App& app, Globals& globals, Action& action);
/// Adds `bench attention`.
void add_bench_attention(CLI::App& bench, Globals& globals, Action& action);
/// Adds `bench projection`.
void add_bench_projection(CLI::App& bench, Globals& globals, Action& action);
/// Adds `bench decode`.
void add_bench_decode(CLI::App& bench, Globals& globals, Action& action);
void add_completion(CLI::App& app, Globals& globals, Action& action);
void add_config(CLI::App& app, Globals& globals, Action& action);
void add_data(CLI::App& app, Globals& globals, Action& action);
void add_eval(CLI::App& app, Globals& globals, Action& action);
void add_export(CLI::App& app, Globals& globals, Action& action);
void add_help(CLI::App& app, Globals& globals, Action& action);
void add_import(CLI::App& app, Globals& globals, Action& action);
void add_info(CLI::App& app, Globals& globals, Action& action);
void add_models(CLI::App& app, Globals& globals, Action& action);
void add_quantize(CLI::App& app, Globals& globals, Action& action);
void add_report(CLI::App& app, Globals& globals, Action& action);
void add_runs(CLI::App& app, Globals& globals, Action& action);
void add_sample(CLI::App& app, Globals& globals, Action& action);
void add_serve(CLI::App& app, Globals& globals, Action& action);
void add_train(CLI::App& app, Globals& globals, Action& action);

/// Adds the checkpoint, which can be given as an argument or with --checkpoint.
CLI::Option* add_checkpoint(CLI::App& command, std::string& checkpoint);
/// The model file of a run folder, checkpoint folder or model file. Throws `user` for anything else, saying
/// what it is.
std::string find_checkpoint(const std::string& path);

/// Adds the options for what generation does once latents or context are full.
void add_policy(CLI::App& command, EngineOptions& engine);
void add_kv_cache(CLI::App& command, KvCache& type);

/// Adds --weights and --bf16-weights, which is --weights bfloat16.
void add_weights(CLI::App& command, Weights& weights);

/// Loads the model of a run folder, checkpoint folder or model file onto the device, with these weights.
LoadedModel open_checkpoint(const std::string& path, const Globals& globals,
                            Weights weights = Weights::automatic);

/// Throws UsageError if --refill was given but generation does not refill.
void check_refill(const EngineOptions& given, const EngineOptions& resolved);

/// The configuration of the run that made a model, with overrides; if the file has none, defaults with the
/// model's own section.
Config run_config(const ModelMetadata& metadata, const std::vector<std::string>& overrides);

/// Floating-point operations of a training step's matrix products (model/projection.h).
struct StepWork {
  std::string path;       ///< how the context is projected: table or direct; none without cross-attention
  double operations = 0;  ///< of the model, computed the usual way
  double executed = 0;    ///< actually executed
};
StepWork step_work(const Config& config, DType type);

}  // namespace perceiver::program
