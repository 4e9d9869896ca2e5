#include "train/config_change.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/check.h"
#include "config/schema.h"
#include "data/data_paths.h"

namespace perceiver {
namespace {

constexpr std::array<std::string_view, 4> kFixedSections{"model", "data", "loss", "optimizer"};
constexpr std::array<std::string_view, 5> kFixedKeys{"train.batch", "train.micro_batches", "train.seed",
                                                     "train.ema_decay", "train.initialize"};
constexpr std::array<std::string_view, 3> kDataPaths{"data.train", "data.validation", "data.test"};

bool is_fixed(const ConfigKey& key, bool other_paths) {
  const auto among = [](const auto& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (other_paths && among(kDataPaths, key.path)) return false;
  return among(kFixedSections, key.section()) || among(kFixedKeys, key.path);
}

}  // namespace

void check_config_change(Config before, const Config& wanted, const std::string& run, bool other_paths) {
  absolute_paths(before.data);  // runs of older versions stored them as they were given
  for (const ConfigKey& key : config_keys()) {
    if (!is_fixed(key, other_paths) || key.get(before) == key.get(wanted)) continue;
    throw_user(
        "{} was trained with {}: {} and cannot be resumed with {}; restore the old value, or start a new "
        "run in another folder",
        run, key.path, format_value(key.get(before)), format_value(key.get(wanted)));
  }
}

}  // namespace perceiver
