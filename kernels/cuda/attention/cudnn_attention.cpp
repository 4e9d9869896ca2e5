// The operation graphs that cuDNN recognises as fused attention and its gradients: each step of the textbook
// formulas is one operation, and the tensors between them are virtual.
#include "kernels/cuda/attention/cudnn_attention.h"

#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <optional>

#include "base/check.h"
#include "kernels/attention.h"
#include "kernels/cuda/attention/cudnn_library.h"

#if __has_include(<cudnn_graph.h>)
namespace perceiver::kernels::cuda {
namespace {

using cudnn::Extents;
using cudnn::Graph;
using cudnn::Library;
using cudnn::Plan;
using cudnn::TensorId;

constexpr int64_t round_up(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

/// Extents and strides of one attention's tensors.
class Shapes {
 public:
  Shapes(const Attention& k, bool causal) : k_(k), causal_(causal) {}

  Extents queries() const { return {k_.batch, k_.heads, k_.queries, k_.head_dim}; }
  Extents keys() const { return {k_.batch, k_.heads, k_.keys, k_.head_dim}; }
  Extents transposed_keys() const { return {k_.batch, k_.heads, k_.head_dim, k_.keys}; }
  Extents scores() const { return {k_.batch, k_.heads, k_.queries, k_.keys}; }
  Extents transposed_scores() const { return {k_.batch, k_.heads, k_.keys, k_.queries}; }
  Extents rows() const { return {k_.batch, k_.heads, k_.queries, 1}; }
  Extents q_strides() const { return {k_.queries * k_.q_stride, k_.head_dim, k_.q_stride, 1}; }
  Extents out_strides() const { return {k_.queries * k_.out_stride, k_.head_dim, k_.out_stride, 1}; }
  Extents kv_strides() const { return {k_.keys * k_.kv_stride, k_.head_dim, k_.kv_stride, 1}; }
  Extents transposed_kv_strides() const { return {k_.keys * k_.kv_stride, k_.head_dim, 1, k_.kv_stride}; }
  Extents row_strides() const { return {k_.heads * k_.queries, k_.queries, 1, 1}; }
  Extents transposed_score_strides() const {
    return {k_.heads * k_.queries * k_.keys, k_.queries * k_.keys, 1, k_.keys};
  }
  Extents sum_strides() const {
    return {k_.heads * k_.queries * k_.head_dim, k_.queries * k_.head_dim, k_.head_dim, 1};
  }
  int64_t row_bytes() const { return round_up(k_.batch * k_.heads * k_.queries * 4); }
  int64_t sum_bytes() const { return round_up(k_.batch * k_.heads * k_.queries * k_.head_dim * 4); }

  /// q · kᵀ / sqrt(head_dim).
  TensorId scaled_scores(Graph& graph, TensorId q, TensorId k_transposed, TensorId scale) const {
    const TensorId raw = graph.matmul(q, k_transposed, graph.inner(CUDNN_DATA_FLOAT, scores()));
    return graph.pointwise(CUDNN_POINTWISE_MUL, raw, scale, graph.inner(CUDNN_DATA_FLOAT, scores()));
  }
  TensorId scale(Graph& graph) const {
    return graph.constant(1 / std::sqrt(static_cast<float>(k_.head_dim)));
  }

  /// -inf where row + keys - queries < column.
  TensorId masked(Graph& graph, TensorId values) const {
    if (!causal_) return values;
    const auto whole = [&] { return graph.inner(CUDNN_DATA_INT32, scores()); };
    TensorId row = graph.index(values, 2, whole());
    const TensorId column = graph.index(values, 3, whole());
    if (k_.keys != k_.queries) {
      row = graph.pointwise(CUDNN_POINTWISE_ADD, row, graph.constant(static_cast<int32_t>(k_.keys)), whole(),
                            CUDNN_DATA_INT32);
      row = graph.pointwise(CUDNN_POINTWISE_SUB, row, graph.constant(static_cast<int32_t>(k_.queries)),
                            whole(), CUDNN_DATA_INT32);
    }
    const TensorId seen = graph.pointwise(CUDNN_POINTWISE_CMP_GE, row, column,
                                          graph.inner(CUDNN_DATA_BOOLEAN, scores()), CUDNN_DATA_BOOLEAN);
    return graph.select(values, graph.constant(-std::numeric_limits<float>::infinity()), seen,
                        graph.inner(CUDNN_DATA_FLOAT, scores()));
  }

 private:
  Attention k_;
  bool causal_;
};

struct Forward {
  Forward(const Library& library, const Shapes& shapes)
      : graph(library),
        q(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.q_strides())),
        k(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.transposed_keys(), shapes.transposed_kv_strides())),
        v(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.keys(), shapes.kv_strides())),
        out(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.out_strides())),
        lse(graph.tensor(CUDNN_DATA_FLOAT, shapes.rows(), shapes.row_strides())),
        plan(build(shapes)) {}

  Plan build(const Shapes& shapes) {
    const auto row = [&] { return graph.inner(CUDNN_DATA_FLOAT, shapes.rows()); };
    const auto square = [&] { return graph.inner(CUDNN_DATA_FLOAT, shapes.scores()); };
    const TensorId scores = shapes.masked(graph, shapes.scaled_scores(graph, q, k, shapes.scale(graph)));
    const TensorId largest = graph.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, row());
    const TensorId shifted = graph.pointwise(CUDNN_POINTWISE_SUB, scores, largest, square());
    const TensorId powers = graph.pointwise(CUDNN_POINTWISE_EXP, shifted, square());
    const TensorId sum = graph.reduce(CUDNN_REDUCE_TENSOR_ADD, powers, row());
    const TensorId log_sum = graph.pointwise(CUDNN_POINTWISE_LOG, sum, row());
    graph.pointwise(CUDNN_POINTWISE_ADD, largest, log_sum, lse);
    const TensorId probabilities =
        graph.pointwise(CUDNN_POINTWISE_DIV, powers, sum, graph.inner(CUDNN_DATA_BFLOAT16, shapes.scores()));
    graph.matmul(probabilities, v, out);
    return graph.compile("attention");
  }

  Graph graph;
  TensorId q, k, v, out, lse;
  Plan plan;
};

struct Backward {
  Backward(const Library& library, const Shapes& shapes)
      : graph(library),
        q(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.q_strides())),
        k(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.transposed_keys(), shapes.transposed_kv_strides())),
        v(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.transposed_keys(), shapes.transposed_kv_strides())),
        out(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.out_strides())),
        d_out(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.out_strides())),
        lse(graph.tensor(CUDNN_DATA_FLOAT, shapes.rows(), shapes.row_strides())),
        d_q(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.q_strides())),
        d_k(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.keys(), shapes.kv_strides())),
        d_v(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.keys(), shapes.kv_strides())),
        delta(graph.tensor(CUDNN_DATA_FLOAT, shapes.rows(), shapes.row_strides())),
        d_q_sum(graph.tensor(CUDNN_DATA_FLOAT, shapes.queries(), shapes.sum_strides())),
        plan(build(shapes)) {}

  Plan build(const Shapes& shapes) {
    const auto square = [&] { return graph.inner(CUDNN_DATA_FLOAT, shapes.scores()); };
    const auto transposed = [&](TensorId x) {
      return graph.reshape(
          x, graph.inner(CUDNN_DATA_BFLOAT16, shapes.transposed_scores(), shapes.transposed_score_strides()));
    };
    // delta = rowsum(d_out * out); the factor 1 stands where dropout's keep rate would be.
    const TensorId products =
        graph.pointwise(CUDNN_POINTWISE_MUL, d_out, out, graph.inner(CUDNN_DATA_FLOAT, shapes.queries()));
    const TensorId sums =
        graph.reduce(CUDNN_REDUCE_TENSOR_ADD, products, graph.inner(CUDNN_DATA_FLOAT, shapes.rows()));
    graph.pointwise(CUDNN_POINTWISE_MUL, sums, graph.constant(1.0f), delta);

    const TensorId scale = shapes.scale(graph);
    const TensorId scores = shapes.scaled_scores(graph, q, k, scale);
    const TensorId logs = graph.pointwise(CUDNN_POINTWISE_SUB, scores, lse, square());
    const TensorId p = graph.pointwise(CUDNN_POINTWISE_EXP, shapes.masked(graph, logs), square());
    graph.matmul(transposed(p), d_out, d_v);

    const TensorId d_p = graph.matmul(d_out, v, square());
    const TensorId centred = graph.pointwise(CUDNN_POINTWISE_SUB, d_p, delta, square());
    const TensorId weighted = graph.pointwise(CUDNN_POINTWISE_MUL, centred, p, square());
    const TensorId d_s = graph.pointwise(CUDNN_POINTWISE_MUL, weighted, scale, square());
    graph.matmul(transposed(d_s), q, d_k);

    const TensorId k_rows =
        graph.reshape(k, graph.inner(CUDNN_DATA_BFLOAT16, shapes.keys(), shapes.kv_strides()));
    graph.matmul(d_s, k_rows, d_q_sum);
    graph.pointwise(CUDNN_POINTWISE_IDENTITY, d_q_sum, d_q);
    return graph.compile("attention's gradients");
  }

  Graph graph;
  TensorId q, k, v, out, d_out, lse, d_q, d_k, d_v;
  TensorId delta;    ///< f32 [batch, heads, queries]
  TensorId d_q_sum;  ///< f32 [batch, heads, queries, head_dim]
  Plan plan;
};

/// Attention of one shape; cuDNN compiles it for the GPU.
struct Plans {
  Plans(const Library& library, const Attention& k)
      : shapes(k, k.mask == MaskShape::causal), forward(library, shapes), backward(library, shapes) {}

  Shapes shapes;
  Forward forward;
  Backward backward;
};

/// What a plan depends on; pointers are bound when it runs.
using Key = std::array<int64_t, 9>;

Key key_of(const Attention& k) {
  return {k.batch,     k.heads,      k.queries,
          k.keys,      k.head_dim,   k.q_stride,
          k.kv_stride, k.out_stride, static_cast<int64_t>(k.mask)};
}

}  // namespace

struct CudnnPlans::State {
  std::optional<Library> library;
  std::map<Key, Plans> plans;  // a plan's graphs refer to the library, and must not move
};

CudnnPlans::CudnnPlans() : state_(std::make_unique<State>()) {}
CudnnPlans::~CudnnPlans() = default;

namespace {

const Plans& plans_of(const Launch& launch, const Attention& k) {
  PERCEIVER_ASSERT(launch.cudnn != nullptr && k.mask != MaskShape::general);
  CudnnPlans::State& state = static_cast<CudnnPlans*>(launch.cudnn)->state();
  if (!state.library) state.library.emplace(static_cast<cudaStream_t>(launch.stream));
  const Key key = key_of(k);
  auto found = state.plans.find(key);
  if (found == state.plans.end()) found = state.plans.try_emplace(key, *state.library, k).first;
  return found->second;
}

}  // namespace

const char* cudnn_obstacle() {
  static const bool found = cudnn::open_library() != nullptr;
  return found ? nullptr
               : "cuDNN 9 is not installed where the loader looks (libcudnn_graph.so.9; see LD_LIBRARY_PATH)";
}

std::string cudnn_version() {
  return cudnn_obstacle() == nullptr ? cudnn::library_version() : "none";
}

void attention_cudnn(const Launch& launch, const Attention& k) {
  const Forward& f = plans_of(launch, k).forward;
  if (f.plan.workspace_bytes() > launch.workspace_bytes)
    throw_user(
        "cuDNN's attention needs {} MiB of workspace for this shape, and there are {}; use model.attention: "
        "auto",
        f.plan.workspace_bytes() >> 20, launch.workspace_bytes >> 20);
  const Graph::Binding bindings[] = {{f.q, k.q}, {f.k, k.k}, {f.v, k.v}, {f.out, k.out}, {f.lse, k.lse}};
  f.graph.run(f.plan, bindings, launch.workspace);
}

int64_t attention_cudnn_backward_bytes(const Launch& launch, const AttentionBackward& a) {
  const Plans& plans = plans_of(launch, a.forward);
  return plans.shapes.row_bytes() + plans.shapes.sum_bytes() + plans.backward.plan.workspace_bytes();
}

void attention_cudnn_backward(const Launch& launch, const AttentionBackward& a, void* scratch,
                              int64_t scratch_bytes) {
  PERCEIVER_ASSERT(scratch_bytes >= attention_cudnn_backward_bytes(launch, a));
  const Plans& plans = plans_of(launch, a.forward);
  const Backward& b = plans.backward;
  const Attention& k = a.forward;
  auto* delta = static_cast<std::byte*>(scratch);
  std::byte* d_q_sum = delta + plans.shapes.row_bytes();
  const Graph::Binding bindings[] = {{b.q, k.q},     {b.k, k.k},         {b.v, k.v},          {b.out, k.out},
                                     {b.lse, k.lse}, {b.d_out, a.d_out}, {b.d_q, a.d_q},      {b.d_k, a.d_k},
                                     {b.d_v, a.d_v}, {b.delta, delta},   {b.d_q_sum, d_q_sum}};
  b.graph.run(b.plan, bindings, d_q_sum + plans.shapes.sum_bytes());
}

}  // namespace perceiver::kernels::cuda
#else
namespace perceiver::kernels::cuda {

struct CudnnPlans::State {};

CudnnPlans::CudnnPlans() = default;
CudnnPlans::~CudnnPlans() = default;

const char* cudnn_obstacle() {
  return "this build has no cuDNN attention: cuDNN's headers (cudnn_graph.h) were missing when it was "
         "compiled";
}

std::string cudnn_version() {
  return "none";
}

void attention_cudnn(const Launch&, const Attention&) {
  throw_user("{}", cudnn_obstacle());
}

void attention_cudnn_backward(const Launch&, const AttentionBackward&, void*, int64_t) {
  throw_user("{}", cudnn_obstacle());
}

int64_t attention_cudnn_backward_bytes(const Launch&, const AttentionBackward&) {
  throw_user("{}", cudnn_obstacle());
}

}  // namespace perceiver::kernels::cuda
#endif
