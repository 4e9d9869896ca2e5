// The program's subcommands. Each file of this folder adds one to the parser, with the function that runs it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "generate/engine.h"
#include "model/model_file.h"
#include "perceiver/config.h"
#include "tools/log.h"

namespace perceiver::program {

/// What every subcommand shares.
struct Globals {
  int threads = 0;  ///< 0 = all
  LogOptions log;
  std::string device;  ///< "auto", "cpu" or "cuda"; empty: what the configuration says, else auto
};

/// The function to call once the command line has been parsed.
using Action = std::function<int()>;
void add_bench(CLI::App& app, Globals& globals, Action& action);
/// Adds `attention` to the subcommands of bench.
void add_bench_attention(CLI::App& bench, Globals& globals, Action& action);
/// Likewise `projection`.
void add_bench_projection(CLI::App& bench, Globals& globals, Action& action);
/// Adds `decode` to the subcommands of bench.
void add_bench_decode(CLI::App& bench, Globals& globals, Action& action);
void add_config(CLI::App& app, Globals& globals, Action& action);
void add_data(CLI::App& app, Globals& globals, Action& action);
void add_eval(CLI::App& app, Globals& globals, Action& action);
void add_import(CLI::App& app, Globals& globals, Action& action);
void add_info(CLI::App& app, Globals& globals, Action& action);
void add_sample(CLI::App& app, Globals& globals, Action& action);
void add_train(CLI::App& app, Globals& globals, Action& action);

/// The options that say how generation goes on when latents or context are full.
void add_policy(CLI::App& command, EngineOptions& engine);

/// Loads the model that a run folder, checkpoint folder or model file means, onto the device asked for.
/// `bf16_weights`: rounds them (PerceiverAR::round_weights_to_bf16).
LoadedModel open_checkpoint(const std::string& path, const Globals& globals, bool bf16_weights = false);

/// The configuration of the run that made a model, with overrides; defaults and the model's own where the
/// file holds none.
Config run_config(const ModelMetadata& metadata, const std::vector<std::string>& overrides);

/// Arithmetic of a training step's matrix products (model/projection.h).
struct StepWork {
  std::string path;       ///< how the context is projected: table or direct; none without cross-attention
  double operations = 0;  ///< of the model, as anybody would compute it
  double executed = 0;    ///< what is computed here
};
StepWork step_work(const Config& config, DType type);

}  // namespace perceiver::program
