#include "config/load.h"
#include "config/save.h"
#include "core/check.h"
#include "tools/commands.h"

namespace perceiver::program {

LoadedModel open_checkpoint(const std::string& path, int threads) {
  return load_model(find_model_file(path), DeviceContext::cpu(threads), DType::f32);
}

Config run_config(const ModelMetadata& metadata, const std::vector<std::string>& overrides) {
  Config config;
  if (!metadata.run.empty()) config = config_from_json(metadata.run, "the checkpoint's run configuration");
  config.model = metadata.model;
  return overrides.empty() ? config
                           : parse_config(to_yaml(config), "the checkpoint's run configuration", overrides);
}

void check_device(const std::string& device) {
  if (device == "cuda")
    throw_user("device: cuda, but this program was built without CUDA; use device: cpu or auto");
}

}  // namespace perceiver::program
