// A model's parameters: named tensors in one flat buffer, their gradients in another, so that optimizers,
// checkpoints and reductions traverse memory, not modules.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/variable.h"
#include "core/device_context.h"

namespace perceiver {

enum class Initializer {
  zeros,
  ones,
  truncated_normal,  ///< of the given standard deviation, truncated at two of them
  fan_in,            ///< truncated normal of variance 1 / fan_in after truncation
  values,            ///< given by a function (position tables)
};

struct Initialization {
  Initializer kind = Initializer::zeros;
  double deviation = 0;
  std::function<double(int64_t element)> value = {};  ///< for `values`
};

/// A named tensor, as in a checkpoint.
struct ParameterInfo {
  std::string name;
  Shape shape;
  int64_t offset = 0;  ///< elements from the start of the flat buffers
  Initialization initialization;

  int64_t elements() const { return shape.elements(); }
};

class ParameterStore {
 public:
  ParameterStore() = default;
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  /// Declares a parameter; `target` becomes valid in `allocate` and must not move before that.
  void declare(Variable& target, std::string name, Shape shape, Initialization initialization);
  /// Declares parameters of the same shape that are adjacent in memory, so that `target` is their
  /// concatenation along the first axis.
  void declare_packed(Variable& target, const std::vector<std::string>& names, Shape each,
                      Initialization initialization);

  /// Allocates values (master weights) and gradients of everything declared, in the accumulation type of
  /// `type`, and if `type` is bf16 the rounded copy that operations read instead. Values are unspecified.
  void allocate(DeviceContext& context, DType type);
  /// The master weights of a declared parameter, with the same gradient.
  Variable unrounded(const Variable& parameter) const;
  /// Updates the rounded copy after the values have changed. Enqueued; no allocation.
  void publish() const;
  /// Draws and publishes initial values, which depend only on (seed, index of the parameter, element);
  /// docs/model.md, "Initial values".
  void initialize(uint64_t seed);

  /// The flat buffers' elements of all parameters declared so far, with padding.
  int64_t size() const { return size_; }
  const std::vector<ParameterInfo>& infos() const { return infos_; }
  int64_t count() const;                                  ///< elements of all parameters
  const Tensor& values() const { return values_; }        ///< flat, with zero padding between parameters
  const Tensor& gradients() const { return gradients_; }  ///< flat, likewise
  Tensor value(const ParameterInfo& info) const { return values_.view(info.offset, info.shape); }
  Tensor gradient(const ParameterInfo& info) const { return gradients_.view(info.offset, info.shape); }
  /// Null if there is none of that name.
  const ParameterInfo* find(const std::string& name) const;

  /// The next backward overwrites all gradients.
  void start_gradients();
  /// Zeroes the gradients of parameters that no operation wrote since `start_gradients`.
  void finish_gradients();

 private:
  struct Declaration {
    Variable* target;
    Shape shape;
    int64_t offset;
  };

  std::vector<ParameterInfo> infos_;
  std::vector<Declaration> declarations_;
  std::vector<std::shared_ptr<Gradient>> slots_;
  int64_t size_ = 0;
  const DeviceContext* context_ = nullptr;
  Tensor values_, gradients_, rounded_;  ///< `rounded_`: only for bf16
};

}  // namespace perceiver
