#include "train/initialize.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/check.h"
#include "core/read_tensor.h"
#include "model/model_file.h"
#include "train/model_difference.h"

namespace perceiver {
namespace {

/// "self.3" for "self.3.mlp.0.weight": blocks are named as a whole.
std::string block_of(const std::string& name) {
  const size_t first = name.find('.');
  const size_t second = first == std::string::npos ? first : name.find('.', first + 1);
  const bool block = name.starts_with("self.") || name.starts_with("cross.");
  return block && second != std::string::npos ? name.substr(0, second) : name;
}

void add_once(std::vector<std::string>& names, const std::string& name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

/// Copies weights tensor by tensor and keeps account.
class Transfer {
 public:
  Transfer(const SafetensorsFile& file, PerceiverAR& model) : file_(file), model_(model) {}

  void take_all() {
    const ParameterStore& store = model_.parameters();
    for (const ParameterInfo& info : store.infos()) take(info);
    for (const SafetensorsEntry& entry : file_.entries())
      if (store.find(entry.name) == nullptr && !is_scale(file_, entry.name))
        add_once(unused_, block_of(entry.name));
    store.publish();
  }

  int64_t taken() const { return taken_; }
  const std::vector<std::string>& fresh() const { return fresh_; }
  const std::vector<std::string>& unused() const { return unused_; }
  const std::vector<std::string>& resized() const { return resized_; }

 private:
  void take(const ParameterInfo& info) {
    const SafetensorsEntry* entry = file_.find(info.name);
    if (entry == nullptr) return add_once(fresh_, block_of(info.name));
    const bool same_shape = entry->shape == info.shape.vector();
    if (!same_shape && same_rows(*entry, info)) return take_rows(*entry, info);
    read_tensor(file_, info.name, info.shape, model_.parameters().value(info));
    taken_ += info.elements();
  }

  /// Whether only the number of rows differs.
  static bool same_rows(const SafetensorsEntry& entry, const ParameterInfo& info) {
    std::vector<int64_t> wanted = info.shape.vector(), found = entry.shape;
    if (wanted.empty() || found.empty()) return false;
    wanted[0] = found[0] = 0;
    return wanted == found;
  }

  void take_rows(const SafetensorsEntry& entry, const ParameterInfo& info) {
    const Tensor target = model_.parameters().value(info);
    const Shape shape{std::span<const int64_t>(entry.shape)};
    const Tensor source = Tensor::empty(model_.context(), target.dtype(), shape);
    read_tensor(file_, info.name, shape, source);
    const int64_t there = shape[0], here = info.shape[0], rows = std::min(there, here);
    const int64_t columns = info.elements() / here;
    const bool last = info.name == "query.learned";
    const int64_t from = last ? there - rows : 0, to = last ? here - rows : 0;
    const Shape part{rows * columns};
    target.view(to * columns, part).copy_from(source.view(from * columns, part));
    taken_ += rows * columns;
    resized_.push_back(fmt::format("{} ({} rows there, {} here)", info.name, there, here));
  }

  const SafetensorsFile& file_;
  PerceiverAR& model_;
  int64_t taken_ = 0;  ///< numbers
  std::vector<std::string> fresh_, unused_, resized_;
};

std::string list_of(const std::vector<std::string>& texts) {
  return fmt::format("{}", fmt::join(texts, "; "));
}

void check_differences(const std::string& source, const ModelDifference& difference, bool partial) {
  std::vector<std::string> obstacles = difference.fatal;
  if (!partial) obstacles.insert(obstacles.end(), difference.partial.begin(), difference.partial.end());
  if (obstacles.empty()) return;
  const char* way_out =
      difference.fatal.empty()
          ? "use the checkpoint's, or take over what fits with train.initialize_partial=true"
          : "use the checkpoint's values";
  throw_user("{} does not fit the configuration: {}; {}", source, list_of(obstacles), way_out);
}

/// Equal configurations have equal tensors, except for position tables that only one of them trains.
void check_complete(const std::string& source, const Transfer& transfer, const ModelConfig& checkpoint,
                    const ModelConfig& configured, bool partial) {
  if (transfer.taken() == 0) throw_user("{} has no weights of this model", source);
  if (partial) return;
  if (!transfer.unused().empty())
    throw_user(
        "{} has trained {}, which the configured model has not; set "
        "model.learnable_positions as there, or leave it out with train.initialize_partial=true",
        source, list_of(transfer.unused()));
  const bool now_trained = configured.learnable_positions && !checkpoint.learnable_positions;
  for (const std::string& name : transfer.fresh())
    if (!(now_trained && name.starts_with("position_embedding.")))
      throw_user("{}: tensor {} is missing", source, name);
}

std::vector<std::string> describe(const std::string& source, const ModelMetadata& metadata,
                                  const ModelDifference& difference, const Transfer& transfer,
                                  const PerceiverAR& model) {
  std::vector<std::string> lines;
  lines.push_back(fmt::format(
      "starting from {} (step {}): {} of {} parameters taken over; step, optimizer and schedule start afresh",
      source, metadata.step, transfer.taken(), model.parameters().count()));
  if (!difference.harmless.empty())
    lines.push_back("configured differently: " + list_of(difference.harmless));
  if (!difference.partial.empty()) lines.push_back("does not fit: " + list_of(difference.partial));
  for (std::string& remark : position_remarks(metadata.model, model.config()))
    lines.push_back(std::move(remark));
  if (!transfer.resized().empty())
    lines.push_back("only the common rows taken over: " + list_of(transfer.resized()));
  if (!transfer.fresh().empty()) lines.push_back("starting afresh: " + list_of(transfer.fresh()));
  if (!transfer.unused().empty()) lines.push_back("not taken over: " + list_of(transfer.unused()));
  return lines;
}

std::vector<std::string> load(const TrainConfig& config, const Dataset& data, PerceiverAR& model) {
  const std::string source = find_model_file(config.initialize).string();
  const SafetensorsFile file = SafetensorsFile::open(source);
  file.verify();
  const ModelMetadata metadata = read_metadata(file);
  const ModelDifference difference = compare_models(metadata, model.config(), data);
  check_differences(source, difference, config.initialize_partial);
  Transfer transfer(file, model);
  transfer.take_all();
  check_complete(source, transfer, metadata.model, model.config(), config.initialize_partial);
  return describe(source, metadata, difference, transfer, model);
}

}  // namespace

std::vector<std::string> load_initial_weights(const TrainConfig& config, const Dataset& data,
                                              PerceiverAR& model) {
  if (config.initialize.empty()) return {};
  try {
    return load(config, data, model);
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("train.initialize: {}", error.what()));
  }
}

}  // namespace perceiver
