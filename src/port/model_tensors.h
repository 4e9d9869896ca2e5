// The tensors of one model among those of a file, by the names that its own code gives them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/tensor_source.h"

namespace perceiver {

class ModelTensors {
 public:
  /// Those whose names start with `prefix`, which is left off.
  ModelTensors(std::shared_ptr<const TensorSource> source, const std::string& prefix);

  const std::string& source() const { return source_->source(); }
  const std::string& prefix() const { return prefix_; }
  /// In the order of names.
  const std::map<std::string, const SourceTensor*, std::less<>>& all() const { return tensors_; }
  bool has(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  /// Throws `user` if it is missing.
  const SourceTensor& get(std::string_view name) const;
  /// Extent `axis` of that tensor; throws `user` if it has not so many.
  int64_t extent(std::string_view name, size_t axis) const;
  std::vector<double> values(std::string_view name) const { return source_->values(get(name)); }
  /// How many of "<stem>0<ending>", "<stem>1<ending>", … there are.
  int64_t count(const std::string& stem, const std::string& ending) const;

 private:
  std::shared_ptr<const TensorSource> source_;
  std::string prefix_;
  std::map<std::string, const SourceTensor*, std::less<>> tensors_;
};

}  // namespace perceiver
