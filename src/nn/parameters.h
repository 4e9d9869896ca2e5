// A model's parameters: named tensors in one flat buffer, their gradients in another, so that optimizers,
// checkpoints and reductions walk over memory and not over modules.
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
  truncated_normal,  ///< of the given standard deviation, cut at two of them
  fan_in,            ///< truncated normal of variance 1 / fan_in after the cut
  values,            ///< given by a function (position tables)
};

struct Initialization {
  Initializer kind = Initializer::zeros;
  double deviation = 0;
  std::function<double(int64_t element)> value;  ///< for `values`
};

/// One named tensor as a checkpoint sees it.
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

  /// Declares a parameter; `target` becomes valid in `allocate` and must stay where it is until then.
  void declare(Variable& target, std::string name, Shape shape, Initialization initialization);
  /// Declares parameters of the same shape that lie one after the other, so that `target` is their
  /// concatenation along the first axis.
  void declare_packed(Variable& target, const std::vector<std::string>& names, Shape each,
                      Initialization initialization);

  /// Allocates values and gradients of everything declared, in the accumulation type of `type`, and what the
  /// operations read: the values themselves, or where `type` is bf16 a rounded copy. Values are unspecified.
  void allocate(DeviceContext& context, DType type);
  /// The unrounded values of a declared parameter that operations read, with the same gradient.
  Variable unrounded(const Variable& parameter) const;
  /// After the values changed: rounds them anew for the operations. Enqueued; no allocation.
  void publish() const;
  /// Draws initial values, and publishes them, from (seed, place of the parameter, element) alone;
  /// docs/model.md, "Initial values".
  void initialize(uint64_t seed);

  const std::vector<ParameterInfo>& infos() const { return infos_; }
  int64_t count() const;                                  ///< elements of all parameters
  const Tensor& values() const { return values_; }        ///< flat, with padding between parameters that is 0
  const Tensor& gradients() const { return gradients_; }  ///< flat, likewise
  Tensor value(const ParameterInfo& info) const { return values_.view(info.offset, info.shape); }
  Tensor gradient(const ParameterInfo& info) const { return gradients_.view(info.offset, info.shape); }
  /// Null when there is none of that name.
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
