#include "kernels/cuda/attention/cudnn_library.h"

#if __has_include(<cudnn_graph.h>)
#include <dlfcn.h>

#include <utility>

#include "base/check.h"

namespace perceiver::kernels::cuda::cudnn {
namespace {

constexpr int64_t kAlignment = 16;  // bytes, of tensors
constexpr int64_t kMostProposals = 32;

/// Rows beside one another, no gaps.
Extents packed(const Extents& e) {
  return {e[1] * e[2] * e[3], e[2] * e[3], e[3], 1};
}

std::string spelled(size_t version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace

void* open_library() {
  for (const char* name :
       {"libcudnn_graph.so.9", "libcudnn.so.9", "/usr/local/cuda/lib64/libcudnn_graph.so.9"})
    if (void* object = dlopen(name, RTLD_NOW | RTLD_GLOBAL)) return object;
  return nullptr;
}

std::string library_version() {
  void* object = open_library();
  if (object == nullptr) return "none";
  const auto get_version = reinterpret_cast<decltype(&cudnnGetVersion)>(dlsym(object, "cudnnGetVersion"));
  return get_version == nullptr ? "unknown" : spelled(get_version());
}

Library::Library(cudaStream_t stream) : object_(open_library()) {
  if (object_ == nullptr)
    throw_user("cuDNN 9 is not installed where the loader looks (libcudnn_graph.so.9; see LD_LIBRARY_PATH)");
  try {
    decltype(&cudnnGetVersion) get_version = nullptr;
    decltype(&cudnnCreate) create = nullptr;
    decltype(&cudnnSetStream) set_stream = nullptr;
    find(get_version, "cudnnGetVersion");
    find(error_string_, "cudnnGetErrorString");
    find(last_error_string_, "cudnnGetLastErrorString");
    find(create, "cudnnCreate");
    find(destroy_, "cudnnDestroy");
    find(set_stream, "cudnnSetStream");
    find(create_descriptor, "cudnnBackendCreateDescriptor");
    find(destroy_descriptor, "cudnnBackendDestroyDescriptor");
    find(set_attribute, "cudnnBackendSetAttribute");
    find(get_attribute, "cudnnBackendGetAttribute");
    find(finalize, "cudnnBackendFinalize");
    find(execute, "cudnnBackendExecute");
    version_ = spelled(get_version());
    check(create(&handle), "opening the library");
    check(set_stream(handle, stream), "stream");
  } catch (...) {
    if (handle != nullptr) destroy_(handle);
    dlclose(object_);
    throw;
  }
}

Library::~Library() {
  destroy_(handle);  // the library itself stays: it keeps threads and caches of its own
}

template <typename Function>
void Library::find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(object_, name));
  if (function == nullptr) throw_user("the cuDNN installed is too old: it has no {}", name);
}

void Library::check(cudnnStatus_t status, const char* what) const {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw_failure("cuDNN {}: {}: {} ({})", version_, what, error_string_(status), last_error());
}

std::string Library::last_error() const {
  char text[1024] = {};
  last_error_string_(text, sizeof text);
  return text;
}

Descriptor::Descriptor(const Library& library, cudnnBackendDescriptorType_t type) : library_(&library) {
  library.check(library.create_descriptor(type, &descriptor_), "descriptor");
}

Descriptor::~Descriptor() {
  if (descriptor_ != nullptr) library_->destroy_descriptor(descriptor_);
}

Descriptor::Descriptor(Descriptor&& other) noexcept
    : library_(other.library_), descriptor_(std::exchange(other.descriptor_, nullptr)) {}

void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                     const void* values) {
  library_->check(library_->set_attribute(descriptor_, name, type, count, values), "attribute");
}

void Descriptor::finalize(const char* what) {
  library_->check(try_finalize(), what);
}

cudnnStatus_t Descriptor::try_finalize() {
  return library_->finalize(descriptor_);
}

Plan::Plan(const Library& library, Descriptor plan) : plan_(std::move(plan)) {
  int64_t count = 0;
  library.check(library.get_attribute(plan_.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                      1, &count, &workspace_bytes_),
                "workspace of a plan");
}

TensorId Graph::add(cudnnDataType_t type, const Extents& extents, const Extents& strides, Place place) {
  const auto id = static_cast<TensorId>(tensors_.size()) + 1;
  Descriptor& tensor = tensors_.emplace_back(library_, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type);
  tensor.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, extents.data());
  tensor.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides.data());
  tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, id);
  tensor.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, kAlignment);
  tensor.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, place == Place::inner);
  tensor.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, place == Place::host);
  tensor.finalize("tensor");
  return id;
}

TensorId Graph::tensor(cudnnDataType_t type, const Extents& extents, const Extents& strides) {
  return add(type, extents, strides, Place::memory);
}

TensorId Graph::inner(cudnnDataType_t type, const Extents& extents) {
  return inner(type, extents, packed(extents));
}

TensorId Graph::inner(cudnnDataType_t type, const Extents& extents, const Extents& strides) {
  return add(type, extents, strides, Place::inner);
}

TensorId Graph::constant(float value) {
  const TensorId id = add(CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, Place::host);
  constants_.push_back({id, value, 0, true});
  return id;
}

TensorId Graph::constant(int32_t value) {
  const TensorId id = add(CUDNN_DATA_INT32, {1, 1, 1, 1}, {1, 1, 1, 1}, Place::host);
  constants_.push_back({id, 0, value, false});
  return id;
}

TensorId Graph::matmul(TensorId a, TensorId b, TensorId out) {
  Descriptor& product = others_.emplace_back(library_, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  product.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  product.finalize("matrix product");
  Descriptor& operation = operations_.emplace_back(library_, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, of(a));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, of(b));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, of(out));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, product);
  operation.finalize("matrix product");
  return out;
}

TensorId Graph::pointwise(cudnnPointwiseMode_t mode, std::span<const TensorId> inputs, TensorId out,
                          cudnnDataType_t arithmetic, std::optional<int64_t> axis) {
  constexpr cudnnBackendAttributeName_t places[] = {CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
                                                    CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                                                    CUDNN_ATTR_OPERATION_POINTWISE_TDESC};
  Descriptor& pointwise = others_.emplace_back(library_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  pointwise.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
  pointwise.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, arithmetic);
  if (axis) pointwise.set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, *axis);
  pointwise.finalize("elementwise operation");
  Descriptor& operation = operations_.emplace_back(library_, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, pointwise);
  for (size_t i = 0; i < inputs.size(); ++i) operation.set(places[i], of(inputs[i]));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, of(out));
  operation.finalize("elementwise operation");
  return out;
}

TensorId Graph::pointwise(cudnnPointwiseMode_t mode, TensorId x, TensorId out) {
  return pointwise(mode, std::array{x}, out, CUDNN_DATA_FLOAT, {});
}

TensorId Graph::pointwise(cudnnPointwiseMode_t mode, TensorId x, TensorId b, TensorId out,
                          cudnnDataType_t arithmetic) {
  return pointwise(mode, std::array{x, b}, out, arithmetic, {});
}

TensorId Graph::select(TensorId x, TensorId b, TensorId choose, TensorId out) {
  return pointwise(CUDNN_POINTWISE_BINARY_SELECT, std::array{x, b, choose}, out, CUDNN_DATA_FLOAT, {});
}

TensorId Graph::index(TensorId x, int64_t axis, TensorId out) {
  return pointwise(CUDNN_POINTWISE_GEN_INDEX, std::array{x}, out, CUDNN_DATA_FLOAT, axis);
}

TensorId Graph::reduce(cudnnReduceTensorOp_t operation_kind, TensorId x, TensorId out) {
  Descriptor& reduction = others_.emplace_back(library_, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  reduction.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, operation_kind);
  reduction.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  reduction.finalize("reduction");
  Descriptor& operation = operations_.emplace_back(library_, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, of(x));
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, of(out));
  operation.finalize("reduction");
  return out;
}

TensorId Graph::reshape(TensorId x, TensorId out) {
  Descriptor& operation = operations_.emplace_back(library_, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, of(x));
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, of(out));
  operation.finalize("reshape");
  return out;
}

Plan Graph::compile(const char* what) const {
  std::vector<cudnnBackendDescriptor_t> operations;
  for (const Descriptor& each : operations_) operations.push_back(each.get());
  Descriptor graph(library_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
            static_cast<int64_t>(operations.size()), operations.data());
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, library_.handle);
  graph.finalize(what);
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    if (auto plan = propose(graph, mode)) return *std::move(plan);
  throw_user(
      "cuDNN {} has no engine for {} of this shape and mask on this GPU ({}); use model.attention: auto",
      library_.version(), what, library_.last_error());
}

std::optional<Plan> Graph::propose(const Descriptor& graph, cudnnBackendHeurMode_t mode) const {
  Descriptor heuristics(library_, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
  if (heuristics.try_finalize() != CUDNN_STATUS_SUCCESS) return {};

  std::vector<Descriptor> engines;
  std::vector<cudnnBackendDescriptor_t> filled;
  for (int64_t i = 0; i < kMostProposals; ++i)
    filled.push_back(engines.emplace_back(library_, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).get());
  int64_t count = 0;
  library_.check(library_.get_attribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, kMostProposals, &count, filled.data()),
                 "engines");
  for (int64_t i = 0; i < std::min(count, kMostProposals); ++i) {
    Descriptor plan(library_, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, library_.handle);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engines[static_cast<size_t>(i)]);
    if (plan.try_finalize() == CUDNN_STATUS_SUCCESS) return Plan(library_, std::move(plan));
  }
  return {};
}

void Graph::run(const Plan& plan, std::span<const Binding> bindings, void* workspace) const {
  std::vector<TensorId> ids;
  std::vector<const void*> memory;
  for (const Binding& each : bindings) {
    ids.push_back(each.tensor);
    memory.push_back(each.memory);
  }
  for (const Constant& each : constants_) {
    ids.push_back(each.tensor);
    memory.push_back(each.is_real ? static_cast<const void*>(&each.real) : &each.whole);
  }
  const auto count = static_cast<int64_t>(ids.size());
  Descriptor variables(library_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  variables.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids.data());
  variables.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, memory.data());
  variables.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace);
  variables.finalize("tensors' memory");
  library_.check(library_.execute(library_.handle, plan.plan_.get(), variables.get()), "attention");
}

}  // namespace perceiver::kernels::cuda::cudnn
#endif
