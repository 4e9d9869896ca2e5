// A model's parameters: named tensors in one flat buffer, their gradients in another, so that optimizers,
// checkpoints and reductions traverse memory, not modules.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "perceiver/experimental/device_context.h"
#include "perceiver/experimental/variable.h"
#include "perceiver/export.h"

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

/// Weight decay applies to the matrices of layers and of the output, not to their vectors, nor to tables;
/// Muon to the matrices of layers alone.
enum class ParameterUse {
  layer,
  table,   ///< rows are looked up: embeddings, learned queries
  output,  ///< makes logits
};

/// A named tensor, as in a checkpoint.
struct ParameterInfo {
  std::string name;
  Shape shape;
  ParameterUse use = ParameterUse::layer;
  int64_t offset = 0;  ///< elements from the start of the flat buffers
  Initialization initialization;

  int64_t elements() const { return shape.elements(); }
  /// Whether weight decay applies.
  bool decays() const { return use != ParameterUse::table && shape.rank() >= 2; }
};

/// First declare all parameters, then `allocate`, then `initialize` them or read them (tensor_file.h):
///
///     ParameterStore store;
///     ops::LinearParameters linear;
///     declare_linear(store, linear, "linear", 16, 32);
///     store.allocate(*context, DType::f32);
///     store.initialize(seed);
///
/// For one thread at a time, except that several may compute with the parameters while none changes them.
class PERCEIVER_API ParameterStore {
 public:
  ParameterStore() = default;
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  /// Declares a parameter; `target` becomes valid in `allocate` and must not move before that. Throws `user`
  /// for a name that is taken, a shape without axes, or if memory is already allocated.
  void declare(Variable& target, std::string name, Shape shape, Initialization initialization,
               ParameterUse use = ParameterUse::layer);
  /// Declares parameters of the same shape that are adjacent in memory, so that `target` is their
  /// concatenation along the first axis.
  void declare_packed(Variable& target, const std::vector<std::string>& names, Shape each,
                      Initialization initialization);

  /// The next parameter starts at a multiple of `elements` in the flat buffers.
  void pad(int64_t elements) { size_ = (size_ + elements - 1) / elements * elements; }
  /// Declares that passes read the unrounded values of a declared parameter too (`unrounded`).
  void keep_unrounded(const Variable& target);

  /// Allocates values (master weights) and gradients of everything declared, in the accumulation type of
  /// `type`, and if `type` is bf16 the rounded copy that operations read instead. All are zero. Throws `user`
  /// if it was called before, or for a type that the device does not compute in.
  void allocate(DeviceContext& context, DType type);
  /// The master weights of a declared parameter, with the same gradient.
  Variable unrounded(const Variable& parameter) const;
  /// Updates the rounded copy after the values have changed: call it after writing them. Enqueued; no
  /// allocation.
  void publish() const;
  /// Draws and publishes initial values, which depend only on (seed, index of the parameter, element);
  /// docs/model.md, "Initial values".
  void initialize(uint64_t seed);

  /// The flat buffers' elements of all parameters declared so far, with padding.
  int64_t size() const { return size_; }
  const std::vector<ParameterInfo>& infos() const { return infos_; }
  int64_t count() const;  ///< elements of all parameters
  /// Flat, with zero padding between parameters; none once `replace_values` or `forget` was called.
  const Tensor& values() const { return values_; }
  /// Flat, likewise; none once `release_gradients` or `forget` was called.
  const Tensor& gradients() const { return gradients_; }
  /// What operations read: the rounded copy, or the values; none once `forget` was called.
  const Tensor& read_values() const { return rounded_ ? rounded_ : values_; }
  /// Where a declared parameter begins in the flat buffers, in elements.
  int64_t offset_of(const Variable& parameter) const;
  /// The master weights of a parameter, and their gradient.
  Tensor value(const ParameterInfo& info) const { return unrounded_values(info.offset, info.shape); }
  Tensor gradient(const ParameterInfo& info) const { return gradients_.view(info.offset, info.shape); }
  /// All master weights by name, for tensor_file.h; call `publish` after reading them.
  std::vector<NamedTensor> tensors() const;
  /// Null if there is none of that name.
  const ParameterInfo* find(const std::string& name) const;

  /// Parameters that were declared together: they are adjacent, and a gradient of theirs is one tensor.
  struct Declared {
    int64_t begin, end;  ///< elements of the flat buffers; `end`: where the next one begins
    bool unrounded;      ///< keep_unrounded
  };
  std::vector<Declared> declared() const;

  /// Part of the unrounded values, kept elsewhere.
  struct ValuePart {
    int64_t begin;
    Tensor values;
  };
  /// Frees the flat values of a model that has a rounded copy. From then on `unrounded` reads from `parts`,
  /// which must contain each parameter of `keep_unrounded` in one piece; rounding new values is up to the
  /// caller.
  void replace_values(std::vector<ValuePart> parts);
  /// Frees the flat gradients; `place_gradients` must give each parameter another place.
  void release_gradients() { gradients_ = {}; }
  /// For models that only generate, and keep some of their parameters in another form: frees the flat buffers
  /// and the contents of `forgotten`, declared parameters of which shape and type remain. All others move to
  /// memory of their own, values and rounded copy; there are no gradients any more. The targets of the
  /// declarations must be where they were declared.
  void forget(const std::vector<const Variable*>& forgotten);
  /// Moves the gradients of whole declarations in [begin, begin + storage.elements()) to `storage`.
  void place_gradients(int64_t begin, const Tensor& storage);

  /// The next backward overwrites all gradients.
  void start_gradients();
  /// Zeroes the gradients of parameters from element `first` on that no operation wrote since
  /// `start_gradients`.
  void finish_gradients(int64_t first = 0);

 private:
  Tensor unrounded_values(int64_t offset, const Shape& shape) const;
  struct Declaration {
    Variable* target;
    Shape shape;
    int64_t offset;
    bool unrounded = false;
    const void* place = nullptr;  ///< of its own memory, once `forget` was called
  };

  std::vector<ParameterInfo> infos_;
  std::vector<Declaration> declarations_;
  std::vector<std::shared_ptr<Gradient>> slots_;
  int64_t size_ = 0;
  DeviceContext* context_ = nullptr;
  Tensor values_, gradients_, rounded_;  ///< `rounded_`: only for bf16
  std::vector<ValuePart> parts_;         ///< instead of `values_`
  bool forgot_ = false;
};

}  // namespace perceiver
