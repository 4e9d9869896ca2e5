#include "train/open_run.h"

#include <filesystem>
#include <utility>

#include "config/validate.h"
#include "data/data_paths.h"
#include "model/precision.h"

namespace perceiver {

Config resolved(Config config) {
  resolve(config);
  validate(config);
  absolute_paths(config.data);
  std::string& source = config.train.initialize;
  if (!source.empty()) source = std::filesystem::absolute(source).lexically_normal().string();
  return config;
}

std::shared_ptr<DeviceContext> open_device(const Config& config, const World* world) {
  const int gpu = world == nullptr ? 0 : world->gpu();
  auto context = DeviceContext::open(config.device, static_cast<int>(config.threads), gpu);
  apply_precision(config.train.precision, *context);
  return context;
}

std::unique_ptr<Dataset> open_fitting(Config& config) {
  std::unique_ptr<Dataset> data = open_dataset(config.data);
  if (config.model.vocabulary == 0) config.model.vocabulary = data->vocabulary();
  check_fits(*data, config.model);
  return data;
}

std::unique_ptr<PerceiverAR> make_model(const Config& config, std::shared_ptr<DeviceContext> context) {
  const DType type = apply_precision(config.train.precision, *context);
  return std::make_unique<PerceiverAR>(config.model, std::move(context), type);
}

}  // namespace perceiver
