// The part of cuDNN's backend API that an operation graph of 4-d tensors needs: the library loaded at run
// time, RAII descriptors, a graph, and the plan that runs it. Empty without cuDNN's headers.
#pragma once

#if __has_include(<cudnn_graph.h>)
#include <cudnn_graph.h>

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace perceiver::kernels::cuda::cudnn {

/// Opened by dlopen; null where it is not found.
void* open_library();
/// Of the library that open_library() finds, e.g. "9.19.0"; "none" where there is none.
std::string library_version();

/// The functions used, and a handle for one device and stream.
class Library {
 public:
  /// For the calling thread's current device. Throws `user` where the library is not found or does not work.
  explicit Library(cudaStream_t stream);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  void check(cudnnStatus_t status, const char* what) const;
  /// The library's message for its last error.
  std::string last_error() const;
  const std::string& version() const { return version_; }

  cudnnHandle_t handle = nullptr;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor = nullptr;
  decltype(&cudnnBackendSetAttribute) set_attribute = nullptr;
  decltype(&cudnnBackendGetAttribute) get_attribute = nullptr;
  decltype(&cudnnBackendFinalize) finalize = nullptr;
  decltype(&cudnnBackendExecute) execute = nullptr;

 private:
  template <typename Function>
  void find(Function& function, const char* name);

  void* object_ = nullptr;  ///< from dlopen
  std::string version_;
  decltype(&cudnnGetErrorString) error_string_ = nullptr;
  decltype(&cudnnGetLastErrorString) last_error_string_ = nullptr;
  decltype(&cudnnDestroy) destroy_ = nullptr;
};

class Descriptor {
 public:
  Descriptor(const Library& library, cudnnBackendDescriptorType_t type);
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  cudnnBackendDescriptor_t get() const { return descriptor_; }
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
           const void* values);
  template <typename Value>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const Value& value) {
    set(name, type, 1, &value);
  }
  void set(cudnnBackendAttributeName_t name, const Descriptor& other) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, other.descriptor_);
  }
  void finalize(const char* what);
  cudnnStatus_t try_finalize();

 private:
  const Library* library_;
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

using Extents = std::array<int64_t, 4>;
/// A tensor of a graph, by its number.
using TensorId = int64_t;

/// A compiled graph.
class Plan {
 public:
  Plan(const Library& library, Descriptor plan);
  int64_t workspace_bytes() const { return workspace_bytes_; }

 private:
  friend class Graph;
  Descriptor plan_;
  int64_t workspace_bytes_ = 0;
};

/// Operations on tensors [batch, head, row, column], in the order given. Arithmetic is in f32.
class Graph {
 public:
  explicit Graph(const Library& library) : library_(library) {}

  /// In memory, bound when the graph runs.
  TensorId tensor(cudnnDataType_t type, const Extents& extents, const Extents& strides);
  /// A virtual tensor: it stays within a kernel.
  TensorId inner(cudnnDataType_t type, const Extents& extents);
  TensorId inner(cudnnDataType_t type, const Extents& extents, const Extents& strides);
  TensorId constant(float value);
  TensorId constant(int32_t value);

  TensorId matmul(TensorId a, TensorId b, TensorId out);
  TensorId pointwise(cudnnPointwiseMode_t mode, TensorId x, TensorId out);
  TensorId pointwise(cudnnPointwiseMode_t mode, TensorId x, TensorId b, TensorId out,
                     cudnnDataType_t arithmetic = CUDNN_DATA_FLOAT);
  /// x where `choose`, else b.
  TensorId select(TensorId x, TensorId b, TensorId choose, TensorId out);
  /// Each element's index along an axis of x.
  TensorId index(TensorId x, int64_t axis, TensorId out);
  TensorId reduce(cudnnReduceTensorOp_t operation, TensorId x, TensorId out);
  /// The same elements under other strides.
  TensorId reshape(TensorId x, TensorId out);

  /// Compiles with the first proposed engine that supports the graph; throws `user` where none does.
  Plan compile(const char* what) const;
  struct Binding {
    TensorId tensor;
    const void* memory;
  };
  void run(const Plan& plan, std::span<const Binding> bindings, void* workspace) const;

 private:
  struct Constant {
    TensorId tensor;
    float real;
    int32_t whole;
    bool is_real;
  };
  enum class Place { memory, inner, host };

  TensorId add(cudnnDataType_t type, const Extents& extents, const Extents& strides, Place place);
  TensorId pointwise(cudnnPointwiseMode_t mode, std::span<const TensorId> inputs, TensorId out,
                     cudnnDataType_t arithmetic, std::optional<int64_t> axis);
  const Descriptor& of(TensorId tensor) const { return tensors_[static_cast<size_t>(tensor - 1)]; }
  std::optional<Plan> propose(const Descriptor& graph, cudnnBackendHeurMode_t mode) const;

  const Library& library_;
  std::deque<Descriptor> tensors_, others_, operations_;
  std::vector<Constant> constants_;
};

}  // namespace perceiver::kernels::cuda::cudnn
#endif
