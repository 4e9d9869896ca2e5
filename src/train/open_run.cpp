#include "train/open_run.h"

#include <filesystem>
#include <utility>

#include "config/load.h"
#include "config/validate.h"
#include "data/data_paths.h"
#include "data/source_dataset.h"
#include "model/named_models.h"
#include "model/precision.h"

namespace perceiver {
namespace {

std::unique_ptr<Dataset> open_data(DataConfig& config, std::shared_ptr<const DataSource> source) {
  if (source == nullptr) return open_dataset(config);
  auto data = std::make_unique<SourceDataset>(std::move(source), config);
  config.type = data->modality();
  if (const auto options = data->options(); !options.empty()) config.options = options;
  return data;
}

}  // namespace

Config resolved(Config config) {
  check_values(config);
  resolve(config);
  validate(config);
  absolute_paths(config.data);
  std::string& source = config.train.initialize;
  if (!source.empty()) source = std::filesystem::absolute(path_or_named(source)).lexically_normal().string();
  return config;
}

std::shared_ptr<DeviceContext> open_device(const Config& config, const World* world, int index) {
  const int gpu = world == nullptr ? index : world->gpu();
  auto context = DeviceContext::open(config.device, static_cast<int>(config.threads), gpu);
  apply_precision(config.train.precision, *context);
  return context;
}

std::unique_ptr<Dataset> open_fitting(Config& config, std::shared_ptr<const DataSource> source) {
  std::unique_ptr<Dataset> data = open_data(config.data, std::move(source));
  if (config.model.vocabulary == 0) config.model.vocabulary = data->vocabulary();
  check_fits(*data, config.model);
  return data;
}

std::unique_ptr<PerceiverAR> make_model(const Config& config, std::shared_ptr<DeviceContext> context) {
  const DType type = apply_precision(config.train.precision, *context);
  return std::make_unique<PerceiverAR>(config.model, std::move(context), type);
}

}  // namespace perceiver
