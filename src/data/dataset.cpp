#include "data/dataset.h"

#include <algorithm>

#include "base/check.h"
#include "data/copy_task.h"
#include "data/shards/shard_dataset.h"
#include "data/shards/shard_summary.h"
#include "data/text/text_dataset.h"

namespace perceiver {
namespace {

/// A folder made by `perceiver data build` contains all splits and knows its modality.
std::unique_ptr<Dataset> open_shards(const DataConfig& config) {
  const std::string& folder = config.train[0];
  if (config.train.size() > 1)
    throw_user("data.train: {} is a folder of shards, which contains all splits; give no other path", folder);
  for (const Split split : {Split::validation, Split::test}) {
    const std::vector<std::string>& paths = split == Split::test ? config.test : config.validation;
    if (!paths.empty())
      throw_user(
          "data.{} is {}, but data.train: {} is a folder of shards, which contains all splits; leave data.{} "
          "empty (--set data.{}=)",
          split_name(split), paths[0], folder, split_name(split), split_name(split));
  }
  std::unique_ptr<ShardDataset> data = ShardDataset::open(folder, config.options);
  // text is the default, so it may not have been chosen deliberately.
  if (config.type != "text" && config.type != data->modality())
    throw_user("data.type is {}, but the shards in {} have modality {}", config.type, folder,
               data->modality());
  return data;
}

/// Shards are no files to be read as data.
void refuse_shards(const std::vector<std::string>& paths, std::string_view key) {
  for (const std::string& path : paths)
    if (is_shard_folder(path))
      throw_user("data.{}: {} is a folder of shards; it can only be data.train, and alone", key, path);
}

/// Byte-level text needs no stored tokens: the files are read directly.
bool is_plain_text(const DataConfig& config) {
  const auto tokenizer = config.options.find("tokenizer");
  return config.type == "text" && (tokenizer == config.options.end() || tokenizer->second == "bytes");
}

}  // namespace

int64_t Dataset::tokens(Split split) const {
  int64_t sum = 0;
  for (int64_t i = 0; i < documents(split); ++i) sum += document_length(split, i);
  return sum;
}

std::unique_ptr<DocumentWeights> Dataset::weights(Split split, int64_t least) const {
  auto table = std::make_unique<WeightTable>(documents(split));
  for (int64_t i = 0; i < documents(split); ++i) {
    const int64_t targets = document_length(split, i) - first_target(split, i);
    table->add(static_cast<uint64_t>(std::max(least, targets)));
  }
  return table;
}

void Dataset::positions(Split, int64_t, int64_t, int64_t count, int32_t* out) const {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int32_t>(i + 1);
}

std::unique_ptr<Dataset> open_dataset(const DataConfig& config) {
  if (config.type == "copy") return open_copy_task(config);
  if (!config.train.empty() && is_shard_folder(config.train[0])) return open_shards(config);
  refuse_shards(config.train, "train");
  refuse_shards(config.validation, "validation");
  refuse_shards(config.test, "test");
  if (!is_plain_text(config)) return ShardDataset::encode(config);
  return TextDataset::open(config);
}

void check_fits(const Dataset& data, const ModelConfig& model) {
  if (data.vocabulary() > model.vocabulary)
    throw_user("the data has {} token ids but model.vocabulary is {}; set it to at least {}",
               data.vocabulary(), model.vocabulary, data.vocabulary());
  if (!model.recurrent() && data.axes() != model.axes())
    throw_user("the data has {} position axes but model.position_sizes has {}", data.axes(), model.axes());
  const std::vector<int64_t> sizes = data.position_sizes();
  for (size_t i = 0; i < sizes.size() && !model.recurrent(); ++i) {
    const bool table = model.has_position_tables();
    const int64_t rows = model.position_sizes.empty() ? model.context_length + 2 : model.position_sizes[i];
    if (table && sizes[i] > rows)
      throw_user("the data needs {} positions on axis {} but model.position_sizes has {}; set it to [{}]",
                 sizes[i], i, rows, fmt::join(sizes, ", "));
  }
  if (!model.recurrent() && data.minimum_context() > model.context_length)
    throw_user("the data needs model.context_length of at least {}, but it is {}", data.minimum_context(),
               model.context_length);
}

int64_t predicted_positions(const ModelConfig& model) {
  if (model.decoder_only()) return model.context_length;
  return model.latents / model.latents_per_position;
}

}  // namespace perceiver
