#include "port/model_tensors.h"

#include "base/check.h"

namespace perceiver {

ModelTensors::ModelTensors(std::shared_ptr<const TensorSource> source, const std::string& prefix)
    : source_(std::move(source)), prefix_(prefix) {
  for (const SourceTensor& tensor : source_->tensors())
    if (tensor.name.starts_with(prefix)) tensors_.emplace(tensor.name.substr(prefix.size()), &tensor);
}

const SourceTensor& ModelTensors::get(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw_user("{}: tensor {}{} is missing", source(), prefix_, name);
  return *found->second;
}

int64_t ModelTensors::extent(std::string_view name, size_t axis) const {
  const SourceTensor& tensor = get(name);
  if (tensor.shape.size() <= axis)
    throw_user("{}: tensor {} has shape [{}], too few dimensions", source(), tensor.name,
               fmt::join(tensor.shape, ", "));
  return tensor.shape[axis];
}

int64_t ModelTensors::count(const std::string& stem, const std::string& ending) const {
  int64_t n = 0;
  while (has(stem + std::to_string(n) + ending)) ++n;
  return n;
}

}  // namespace perceiver
