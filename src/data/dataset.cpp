#include "data/dataset.h"

#include "core/check.h"
#include "data/copy_task.h"
#include "data/text_dataset.h"

namespace perceiver {
namespace {

struct Kind {
  DatasetType type;
  std::unique_ptr<Dataset> (*open)(const DataConfig& config);
};

constexpr Kind kinds[] = {
    {DatasetType::text, open_text_dataset},
    {DatasetType::copy, open_copy_task},
};

}  // namespace

std::string_view split_name(Split split) {
  constexpr std::string_view names[split_count] = {"train", "validation", "test"};
  return names[static_cast<int>(split)];
}

void Dataset::positions(Split, int64_t, int64_t, int64_t count, int32_t* out) const {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int32_t>(i + 1);
}

std::unique_ptr<Dataset> open_dataset(const DataConfig& config) {
  for (const Kind& kind : kinds) {
    if (kind.type == config.type) return kind.open(config);
  }
  throw_failure("data.type {} has no reader", static_cast<int>(config.type));
}

void check_fits(const Dataset& data, const ModelConfig& model) {
  if (data.vocabulary() > model.vocabulary)
    throw_user("the data has {} token ids but model.vocabulary is {}; set it to at least {}",
               data.vocabulary(), model.vocabulary, data.vocabulary());
  if (data.axes() != model.axes())
    throw_user("the data has {} position axes but model.position_sizes has {}", data.axes(), model.axes());
  if (data.minimum_context() > model.context_length)
    throw_user("the data needs model.context_length of at least {}, it is {}", data.minimum_context(),
               model.context_length);
}

int64_t predicted_positions(const ModelConfig& model) {
  if (model.type == ModelType::transformer) return model.context_length;
  return model.latents / model.latents_per_position;
}

}  // namespace perceiver
