#include "base/check.h"
#include "config/load.h"
#include "config/save.h"
#include "model/precision.h"
#include "model/projection.h"
#include "tools/commands.h"
#include "tools/ranks.h"

namespace perceiver::program {

LoadedModel open_checkpoint(const std::string& path, const Globals& globals, Weights weights) {
  const std::string file = find_checkpoint(path);
  auto context = open_device(globals);
  const DType type = apply_precision(Precision::automatic, *context);
  return load_model(file, std::move(context), type, globals.verify, weights);
}

void check_refill(const EngineOptions& given, const EngineOptions& resolved) {
  if (given.refill != 0 && resolved.policy != GenerationPolicy::refill)
    throw_usage("--refill {} needs --policy refill", given.refill);
}

Config run_config(const ModelMetadata& metadata, const std::vector<std::string>& overrides) {
  Config config;
  if (!metadata.run.empty()) config = config_from_json(metadata.run, "the checkpoint's run configuration");
  config.model = metadata.model;
  return overrides.empty() ? config
                           : parse_config(to_yaml(config), "the checkpoint's run configuration", overrides);
}

StepWork step_work(const Config& config, DType type) {
  const auto passes = static_cast<double>(config.train.micro_batches);
  const int64_t examples = config.train.batch / config.train.micro_batches;
  const bool table = projects_tables(config.model, context_tokens(config.model, examples, true), type);
  const bool reads = config.model.type == ModelType::perceiver_ar;
  return {reads ? (table ? "table" : "direct") : "none", passes * step_operations(config.model, examples),
          passes * executed_step_operations(config.model, examples, type)};
}

}  // namespace perceiver::program
